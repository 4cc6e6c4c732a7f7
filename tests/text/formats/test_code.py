"""Source trees: what its authors wrote, with path, language and licence; the rest counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings, SourceSettings
from danlu.text.source import read_records

FILES: dict[str, bytes] = {
    "LICENSE": b"Apache License",
    "README.md": "# 项目\n\n".encode() + b"word " * 400,
    "src/main.py": "# 注释：中文\nprint('hi')\r\n".encode(),
    "src/旧.c": "/* 中文注释，今天天气很好 */\nint main(void) { return 0; }\n".encode("gbk"),
    "src/wide.cs": "// 宽\n".encode("utf-16"),
    "src/data.json": b'{"a": 1}',
    "src/icon.c": b"\x7fELF\0\0\0",
    "src/table.js": b"var a = [" + b"1, " * 5000 + b"];",
    "src/jquery.min.js": b"x",
    "src/empty.py": b"",
    "src/blank.py": b"\n\n",
    "src/.hidden.py": b"secret = 1",
    ".git/hooks/a.py": b"x = 1",
    ".gitignore": b"build/\n*.gen.py\n!keep.gen.py\n[z-a]\n!\n",
    "build/out.py": b"x = 1",
    "src/a.gen.py": b"x = 1",
    "src/keep.gen.py": b"kept = 1\n",
    "lib/.gitignore": b"!b.gen.py\n/local.py",
    "lib/b.gen.py": b"also_kept = 1\n",
    "lib/local.py": b"x = 1",
    "lib/COPYING": b"GNU GENERAL PUBLIC LICENSE",
    "lib/deep/Makefile": b"all:\n\techo\n",
    "node_modules/x/index.js": b"x",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "repos" / "项目"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (tmp_path / "outside.py").write_text("secret = 1")
    (root / "link.py").symlink_to(tmp_path / "outside.py")
    (root / "linked").symlink_to(tmp_path)
    return root


def records(path: str, **more: Any) -> tuple[dict[str, Any], dict[str, int]]:
    counts = Counts()
    source = SourceSettings(path=path, format="code", **more)
    found = {record.meta["path"]: record for record in read_records(source, "document", counts)}
    return found, {reason: entry["count"] for reason, entry in counts.as_dict().items()}


def test_what_the_authors_wrote(tree: Path) -> None:
    found, counts = records(str(tree))
    assert list(found) == [
        "README.md", "lib/b.gen.py", "lib/deep/Makefile", "src/keep.gen.py", "src/main.py", "src/wide.cs", "src/旧.c",
    ]  # fmt: skip
    assert found["src/main.py"].text == "# 注释：中文\nprint('hi')\n"
    assert found["src/旧.c"].text == FILES["src/旧.c"].decode("gbk") and found["src/wide.cs"].text == "// 宽\n"
    assert found["src/main.py"].meta == {
        "path": "src/main.py", "language": "python", "licence": "LICENSE", "origin": "src/main.py:1"
    }  # fmt: skip
    assert found["lib/deep/Makefile"].meta["licence"] == "lib/COPYING"
    assert found["lib/deep/Makefile"].meta["language"] == "makefile"
    assert counts == {
        "rows": 11, "records": 7, "left out: binary file": 1, "left out: lines too long for source code": 1,
        "left out: empty file": 2, "left out: symbolic link": 2,
        "left out: other people's or generated code": 2, "left out: named in .gitignore": 3,
        "left out: file of another format": 3,
    }  # fmt: skip


def test_several_trees_by_a_pattern_and_files_chosen(tree: Path) -> None:
    found, _ = records(f"{tree.parent}/*", include=["*.py"], exclude=["*/keep.gen.py"])
    assert list(found) == ["项目/lib/b.gen.py", "项目/src/main.py"]
    assert found["项目/src/main.py"].meta["licence"] == "项目/LICENSE"
    one, _ = records(str(tree / "src" / "main.py"))
    assert one["main.py"].meta == {"path": "main.py", "language": "python", "origin": "main.py:1"}


def test_cleaned_by_the_engine(tree: Path, tmp_path: Path) -> None:
    source = {"path": str(tree), "name": "code", "format": "code"}
    settings = {"sources": [source], "steps": [{"op": "exact_dedup"}], "workers": 1, "task_bytes": 100}
    clean(check(CleanSettings, settings), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]["documents/code"]
    assert found["kept"] == 7 and found["read"]["left out: binary file"]["count"] == 1


def test_code_without_being_asked_for_is_an_error_that_says_how(tree: Path) -> None:
    with pytest.raises(UserError, match="format: code"):
        list(read_records(SourceSettings(path=str(tree / "src" / "main.py")), "document", Counts()))


def test_files_of_code_are_not_cut() -> None:
    with pytest.raises(UserError, match="a file is one document"):
        check(CleanSettings, {"sources": [{"path": "x", "format": "code", "document": "line"}]})
