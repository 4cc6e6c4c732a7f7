"""LaTeX sources as text: math stays as it is written, commands and comments go, and no other file is looked at."""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from danlu.text.formats.latex_words import DRAWN, LISTED, MATH, SIGNS, SPLIT, TAKEN, WRITTEN, accented
from danlu.text.formats.whole import decoded, whole
from danlu.text.pieces import BadAt, Numbered, Piece, Wanted
from danlu.text.problems import BadRow

_BODY = re.compile(r"^[^%\n]*?\\begin\s*\{document\}", re.MULTILINE)
_END = re.compile(r"^[^%\n]*?\\end\s*\{document\}", re.MULTILINE)
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*+(?:\n[ \t]*+(?!\n))?")
_TOKEN = re.compile(
    r"""
      %[^\n]*+(?:\n[ \t]*+(?!\n))?                              # a comment takes the line end along
    | (?P<code>\\verb\*?(?P<bar>[^\sa-zA-Z])(?P<verb>[^\n]{0,500}?)(?P=bar))
    | \\(?P<edge>begin|end)\s*\{(?P<name>[^{}\n]{0,100})\}
    | (?P<math>\$\$?|\\\(|\\\[)
    | \\(?P<accent>['`^"~=.]|[cvuHkrd](?![a-zA-Z]))\s*(?:\{\s*\\?(?P<boxed>[a-zA-Z]?)\s*\}|\\?(?P<letter>[a-zA-Z]))
    | \\(?P<command>[a-zA-Z@]++)\*?(?P<blank>[ \t]*+(?:\n(?![ \t]*\n)[ \t]*+)?)
    | \\(?P<sign>[^a-zA-Z@])
    | (?P<mark>[{}~&]|---?|``|'')
    | (?P<text>[^\\%${}~&`'-]++|[\s\S])
    """,
    re.VERBOSE,
)
_MATH_END = {
    "$": re.compile(r"(?<!\\)\$|\n[ \t]*\n"),
    "$$": re.compile(r"\$\$"),
    r"\(": re.compile(r"\\\)"),
    r"\[": re.compile(r"\\\]"),
}
_DISTANCE = re.compile(r"\*?[ \t]*\[[\d. a-z\\-]{1,20}\]")
_OPTION = re.compile(r"\s{0,20}\[[^\[\]{}]{0,300}(?:\{[^{}]{0,100}\}[^\[\]{}]{0,100}){0,20}\]")
_SET_UP = re.compile(r"\A[ \t]*(?:\[[^\]]*\])?[ \t]*(?:\{[^{}\n]*\})?")
_ARGUMENT = re.compile(r"\s{0,20}(?=\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_NEW = re.compile(
    r"\\(?:(?:re)?newcommand|providecommand)\*?\s*\{?\\([a-zA-Z@]+)\}?\s*(?=\{)|\\def\s*\\([a-zA-Z@]+)\s*(?=\{)"
)
_NAMED = re.compile(r"\\([a-zA-Z@]+)")
_TITLE = re.compile(r"\\title\s*+(?:\[[^\]]{0,300}\])?\s*+(?=\{)")
_LINE, _PARAGRAPH = "\x1e", "\x1d"  # ends that stand for more than a blank
_BLANKS = re.compile(r"[ \t\n]+")
_ENDS = re.compile(rf" ?[{_LINE}{_PARAGRAPH}][ {_LINE}{_PARAGRAPH}]*")
_WRAPPED = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n[ \t]*(?=[\u3000-\u9fff\uff00-\uffef])")
_BEFORE = re.compile(r" +([.,;:!?)])")
_NEWLINES = re.compile(r"\n[ \t]*\n\s*")
_NOTED = re.compile(r"\\(?:label|tag)\s*\{[^{}]*\}|\\(?:nonumber|notag)\b")
_MOST_EXPANSIONS = 10_000
_DEEPEST = 4  # a command in the words of a command and so on
_MOST_COMMANDS = 1000
_LONGEST_ARGUMENT = 2000  # characters that are looked through for its end


def rows(piece: Piece, bad: BadAt, wanted: Wanted) -> Numbered:
    """The file as one row. Raises BadRow where it has no text."""
    content = whole(piece, wanted)
    if content:
        title, text = latex_text(decoded(content))
        if not text:
            raise BadRow("no text", "LaTeX that only sets things up")
        yield 1, {"text": text, **({"title": title} if title else {})}


def latex_text(source: str) -> tuple[str, str]:
    """Title and text of a document, or of a part of one that has no preamble."""
    source = re.sub(r"\r\n?", "\n", source)
    source = re.sub(r"[\x00-\x08\x0b-\x1f]", "", source)
    body = _BODY.search(source)
    start = body.end() if body else 0
    stop = _END.search(source, start)
    commands = _commands(source)
    named = _TITLE.search(source)
    title = _text(_argument(source, named.end())[0], commands) if named else ""
    return " ".join(title.split()), _text(source[start : stop.start() if stop else len(source)], commands)


def _commands(source: str) -> dict[str, str]:
    """Commands without arguments that the author made, as names of methods are."""
    found = islice(_NEW.finditer(source), _MOST_COMMANDS)
    return {new[1] or new[2]: _argument(source, new.end())[0] for new in found}


def _argument(source: str, at: int) -> tuple[str, int]:
    """What stands in the braces that open at `at`, and where it goes on behind them; nothing where they don't close."""
    depth = 0
    for found in _BRACE.finditer(source, at, at + _LONGEST_ARGUMENT):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return source[at + 1 : found.start()], found.end()
    return "", at + 1


def _text(source: str, commands: dict[str, str]) -> str:
    out = _Out()
    _Writer(source, commands, out).write()
    return out.text()


class _Dropped(NamedTuple):
    """An argument that is no text: what is written until it closes is taken back."""

    written: int
    more: int
    """Arguments of the same command that follow."""


class _Out:
    """Running text and blocks of code in turns, whose blanks stay."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self.run: list[str] = []
        self.expansions = 0

    def block(self, code: str) -> None:
        self._end_run()
        self._blocks.append(code)

    def text(self) -> str:
        self._end_run()
        return "\n\n".join(filter(None, self._blocks))

    def _end_run(self) -> None:
        text = _BLANKS.sub(" ", "".join(self.run))
        text = _ENDS.sub(lambda ends: "\n\n" if _PARAGRAPH in ends[0] else "\n", text)
        self._blocks.append(_BEFORE.sub(r"\1", text).strip())
        self.run = []


class _Writer:
    """Goes through a source token by token; a command of the author's own has a writer of its own."""

    def __init__(self, source: str, commands: dict[str, str], out: _Out, depth: int = 0) -> None:
        self._source, self._commands, self._out, self._depth = source, commands, out, depth
        self._at = 0
        self._closers: list[str | _Dropped] = []  # what is written where each open brace closes
        self._unclosed: set[str] = set()  # what is opened and never closed again: it is looked for once only

    def write(self) -> None:
        while token := _TOKEN.match(self._source, self._at):
            self._at = token.end()
            if token["text"]:
                self._words(token["text"])
            elif token["math"]:
                self._math(token["math"])
            elif token["edge"]:
                self._edge(token["edge"], token["name"].strip().rstrip("*"))
            elif token["command"]:
                self._command(token["command"], token["blank"])
            elif token["accent"]:
                self._say(accented(token["accent"], token["boxed"] or token["letter"] or ""))
            elif token["code"]:
                self._say(f"`{token['verb']}`")
            elif token["sign"]:
                self._sign(token["sign"])
            elif token["mark"] == "{":
                self._closers.append("")
            elif token["mark"] == "}":
                self._close()
            elif token["mark"]:
                self._say(SIGNS[token["mark"]])

    def _close(self) -> None:
        closer = self._closers.pop() if self._closers else ""
        if isinstance(closer, str):
            self._say(closer)
        else:
            del self._out.run[closer.written :]
            self._skip(closer.more)

    def _say(self, text: str) -> None:
        self._out.run.append(text)

    def _words(self, text: str) -> None:
        if "\n" in text:
            text = _NEWLINES.sub(_PARAGRAPH, _WRAPPED.sub("", text))
        self._say(text)

    def _up_to(self, end: re.Pattern[str]) -> str | None:
        """The source up to a match, and to go on behind it; None where there is none."""
        if end.pattern in self._unclosed:
            return None
        found = end.search(self._source, self._at)
        if found is None:
            self._unclosed.add(end.pattern)
            return None
        if not found[0].strip():  # the end of the paragraph: it was the sign of a price
            return None
        inside, self._at = self._source[self._at : found.start()], found.end()
        return inside

    def _math(self, opening: str) -> None:
        inside = self._up_to(_MATH_END[opening])
        if inside is None:
            self._say("$" if opening == "$" else "")
        else:
            self._formula(inside, "$" if opening in ("$", r"\(") else "$$")

    def _formula(self, formula: str, around: str) -> None:
        formula = self._expanded(_NOTED.sub("", _COMMENT.sub(r"\1", formula)))
        formula = _BLANKS.sub(" ", formula).strip()
        edge = _PARAGRAPH if around == "$$" else ""
        self._say(f"{edge}{around}{formula}{around}{edge}" if formula else "")

    def _expanded(self, formula: str) -> str:
        """A formula with the author's commands written out."""

        def written(found: re.Match[str]) -> str:
            if found[1] not in self._commands or self._out.expansions >= _MOST_EXPANSIONS:
                return found[0]
            self._out.expansions += 1
            return self._commands[found[1]]

        for _ in range(_DEEPEST):
            before, formula = formula, _NAMED.sub(written, formula)
            if formula == before:
                break
        return formula

    def _edge(self, edge: str, name: str) -> None:
        apart = name in MATH or name in DRAWN or name in WRITTEN
        if edge == "end" or not apart:
            self._say(_PARAGRAPH)
            self._skip(LISTED.get(name, 0) if edge == "begin" else 0)
            return
        inside = self._up_to(re.compile(rf"\\end\s*\{{{name}\*?\}}"))
        if inside is None or name in DRAWN:
            return
        if name in WRITTEN:
            code = inside if name == "verbatim" else _SET_UP.sub("", inside, count=1)
            self._out.block("```\n" + code.strip("\n") + "\n```")
            return
        lines = MATH[name]
        self._formula(
            rf"\begin{{{lines}}}{inside}\end{{{lines}}}" if lines else inside, "$" if name == "math" else "$$"
        )

    def _command(self, name: str, blank: str) -> None:
        out = self._out
        if name in self._commands and self._depth < _DEEPEST and out.expansions < _MOST_EXPANSIONS:
            out.expansions += 1
            _Writer(self._commands[name], self._commands, out, self._depth + 1).write()
            self._say(blank and " ")  # TeX drops it; authors put \\xspace or {} there for the reader to have it
        elif name in SIGNS:
            self._say(SIGNS[name])
        elif name == "item":
            self._say(f"{_LINE}- ")
            self._skip(0)
        elif name in TAKEN:
            self._skip(TAKEN[name])
        elif name in SPLIT or name == "footnote":
            self._skip(0)
            self._say(_PARAGRAPH if name in SPLIT else " (")
            if brace := _ARGUMENT.match(self._source, self._at):
                self._at = brace.end() + 1
                self._closers.append(_PARAGRAPH if name in SPLIT else ")")
        elif not blank:
            self._options()

    def _sign(self, sign: str) -> None:
        if sign == "\\":  # the end of a line, perhaps with its distance to the next
            self._say(_LINE)
            if distance := _DISTANCE.match(self._source, self._at):
                self._at = distance.end()
        else:
            self._say("" if sign in "/-!@)]" else " " if sign in " ,;:\n~" else sign)

    def _options(self) -> None:
        while option := _OPTION.match(self._source, self._at):
            self._at = option.end()

    def _skip(self, arguments: int) -> None:
        """Goes behind options, and drops so many arguments."""
        self._options()
        brace = _ARGUMENT.match(self._source, self._at) if arguments else None
        if brace:
            self._at = brace.end() + 1
            self._closers.append(_Dropped(len(self._out.run), arguments - 1))
