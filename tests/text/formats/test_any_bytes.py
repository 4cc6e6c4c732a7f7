"""Whatever bytes a file has, it is read or counted by reason: readers raise nothing but what they say they raise."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written import epub, pdf, read, response, warc_record

from danlu.text.readers import Wanted

PAGE = '<html><head><meta charset="gbk"><title>题</title></head><body><p>正文 <a href="/">link</a></p></body></html>'
PACKED = response(gzip.compress(PAGE.encode()), "Content-Type: text/html\r\nContent-Encoding: gzip")
SOUND: dict[str, bytes] = {
    ".html": PAGE.encode("gbk"),
    ".html.gz": gzip.compress(PAGE.encode("gbk")),
    ".warc": b"".join(warc_record("response", "http://a", response(PAGE.encode())) for _ in range(3)),
    ".warc.gz": gzip.compress(warc_record("response", "http://a", PACKED)),
    ".tex": r"\title{题}\begin{document}\section{一} $x$ \cite{a} \begin{align}a\end{align}\end{document}".encode(),
    ".epub": epub(["<p>正文</p>", "<p>text</p>"]),
    ".pdf": pdf([["正文"], ["text"]]),
    ".py": "# 注释\nx = 1\n".encode(),
}
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.binary(max_size=8) | st.sampled_from([b"\\", b"{", b"<", b"\0", b"\xff", b"9999"])),
    max_size=8,
)


def soundly(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    rows, said = read(path, Wanted(longest=100_000, tree=path.parent if path.suffix == ".py" else None))
    assert rows or said
    for row in rows:
        assert row.fields["text"].strip()
        assert json.loads(json.dumps(row.fields)) == row.fields
        row.fields["text"].encode()


@pytest.mark.parametrize("ending", SOUND)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, cut=st.floats(0.3, 1))
def test_a_damaged_file(tmp_path: Path, ending: str, changes: list[tuple[float, bytes]], cut: float) -> None:
    content = bytearray(SOUND[ending])
    for place, change in changes:
        at = int(place * len(content))
        content[at : at + len(change)] = change
    soundly(tmp_path / f"a{ending}", bytes(content[: round(cut * len(content))]))


@pytest.mark.parametrize("ending", SOUND)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), head=st.booleans())
def test_any_bytes(tmp_path: Path, ending: str, content: bytes, head: bool) -> None:
    soundly(tmp_path / f"a{ending}", SOUND[ending][:20] * head + content)


@pytest.mark.parametrize("ending", SOUND)
def test_sound_files_are_read_and_empty_ones_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(SOUND[ending])
    tree = tmp_path if ending == ".py" else None
    rows, said = read(path, Wanted(tree=tree))
    assert rows and not said
    path.write_bytes(b"")
    assert [reason for _, reason in read(path, Wanted(tree=tree))[1]] in (["empty file"], ["cut-off file"])


@pytest.mark.parametrize("ending", [".html", ".tex", ".py"])
def test_a_large_file_is_given_up_at_the_limit(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    with path.open("wb") as handle:
        handle.truncate(1 << 31)  # a hole: it takes no room, and reading all of it would take long
    assert read(path, Wanted(tree=tmp_path if ending == ".py" else None, longest=1 << 20))[1] == [
        ("bad", "document too long")
    ]
