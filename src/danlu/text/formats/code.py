"""Source code: a file is a document, with its path, its language and the licence that stands nearest above it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from danlu.text.formats.whole import decoded, whole
from danlu.text.pieces import BadAt, Numbered, Piece, Wanted
from danlu.text.problems import LeftOut

LONGEST_LINE = 1000  # characters; what is longer was written by a machine (The Stack's limit)
_BINARY = 8000  # bytes that are looked through, as git does
_PROSE = {"markdown", "restructuredtext", "tex", "text"}  # a paragraph may well be one line
_LICENCES = ("licence", "license", "copying", "unlicense")
_NAMES = {
    "dockerfile": "dockerfile", "makefile": "makefile", "gnumakefile": "makefile", "cmakelists.txt": "cmake",
    "rakefile": "ruby", "gemfile": "ruby", "jenkinsfile": "groovy", "readme": "text",
}  # fmt: skip
LANGUAGES = {
    "assembly": "asm s", "c": "c h", "c#": "cs", "c++": "cc cpp cxx hpp hh hxx cu cuh", "clojure": "clj cljs",
    "cmake": "cmake", "css": "css scss sass less", "d": "d", "dart": "dart", "elixir": "ex exs", "elm": "elm",
    "erlang": "erl hrl", "f#": "fs fsx", "fortran": "f f90 f95 f03", "glsl": "glsl", "go": "go",
    "groovy": "gradle groovy", "haskell": "hs", "html": "html htm", "java": "java", "javascript": "js jsx mjs cjs",
    "julia": "jl", "kotlin": "kt kts", "lisp": "lisp el", "lua": "lua", "markdown": "md markdown", "matlab": "m",
    "nim": "nim", "ocaml": "ml mli", "pascal": "pas", "perl": "pl pm", "php": "php", "powershell": "ps1",
    "protobuf": "proto", "python": "py pyi pyx", "r": "r", "restructuredtext": "rst", "ruby": "rb", "rust": "rs",
    "scala": "scala", "scheme": "scm rkt", "shell": "sh bash zsh", "solidity": "sol", "sql": "sql", "swift": "swift",
    "tcl": "tcl", "tex": "tex", "text": "txt", "toml": "toml", "typescript": "ts tsx", "verilog": "sv v",
    "vhdl": "vhd vhdl", "vim": "vim", "visual-basic": "vb", "vue": "vue", "yaml": "yaml yml", "zig": "zig",
}  # fmt: skip
"""Endings by language."""
_BY_ENDING = {ending: language for language, endings in LANGUAGES.items() for ending in endings.split()}


def language(path: Path) -> str | None:
    """What a file of source code is written in, by its name; None for a file of another kind."""
    name = path.name.lower()
    return _NAMES.get(name) or _BY_ENDING.get(path.suffix.lower().removeprefix("."))


def rows(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    """The file as one row. Raises LeftOut for what nobody wrote by hand."""
    path = Path(piece.file)
    content = whole(piece, wanted)
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # UTF-16, in which NUL bytes are letters
    if b"\0" in content[:_BINARY] and not marked:
        raise LeftOut("binary file")
    text = decoded(content).replace("\r\n", "\n")
    if not text.strip():
        raise LeftOut("empty file")
    written = language(path) or "text"
    longest = max(map(len, text.split("\n")))
    if longest > LONGEST_LINE and written not in _PROSE:
        raise LeftOut("lines too long for source code", f"{longest} characters")
    tree = wanted.tree or path.parent
    fields = {"text": text, "path": path.relative_to(tree).as_posix(), "language": written}
    licence = _licence(path.parent, tree)
    yield 1, fields if licence is None else {**fields, "licence": licence}


@lru_cache(maxsize=1024)
def _licence(folder: Path, tree: Path) -> str | None:
    """The licence file of the folder, or of the nearest above it within the tree."""
    for file in sorted(folder.iterdir()):
        if file.stem.lower() in _LICENCES and file.is_file():
            return file.relative_to(tree).as_posix()
    return None if folder == tree or tree not in folder.parents else _licence(folder.parent, tree)
