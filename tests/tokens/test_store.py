"""Encoded sources that runs share: encoded once, whoever asks and however it is packed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.text.settings import SourceSettings
from danlu.tokens import encode_sources
from danlu.tokens.index import token_sets_there
from danlu.tokens.jinja import CHATML
from danlu.tokens.order_settings import CurriculumSettings
from danlu.tokens.pack import open_stream, pack
from danlu.tokens.settings import DataSettings
from danlu.tokens.shards import TokenSet
from danlu.tokens.store import DAY, Store
from danlu.tokens.tokenizer import Tokenizer

Count = Callable[[], int]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How many encoding tasks have run since it was last asked."""
    calls: list[int] = []
    encode = encode_sources.encode_part

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return encode(*given, **named)

    monkeypatch.setattr(encode_sources, "encode_part", counted)

    def count() -> int:
        found = len(calls)
        calls.clear()
        return found

    return count


def rows(path: Path, start: int = 0, count: int = 30, **more: Any) -> Path:
    said = ["user", "assistant"] * 2
    content = [
        {
            "messages": [{"role": role, "content": f"{role} 说 {n} " * (n % 5 + 1)} for role in said],
            "quality": n / 7,
            **more,
        }
        for n in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), "utf-8")
    return path


def data(*paths: Path, **settings: Any) -> DataSettings:
    sources = [SourceSettings(path=str(path), name=path.stem) for path in paths]
    return DataSettings(**{"sources": sources, "length": 96, "held_out": 0.2, "workers": 1, **settings})


def changed(settings: DataSettings, **source: Any) -> DataSettings:
    sources = [settings.sources[0].model_copy(update=source), *settings.sources[1:]]
    return settings.model_copy(update={"sources": sources})


def test_only_what_changes_tokens_encodes_again(tmp_path: Path, byte_tokenizer: Path, encoded: Count) -> None:
    plain = data(rows(tmp_path / "a.jsonl"), rows(tmp_path / "b.jsonl", 100))
    pack(plain, byte_tokenizer, "sft", tmp_path / "one")
    assert encoded() == 2
    again = [
        changed(plain, weight=3.0),
        changed(plain, share=0.3, max_epochs=2.0),
        plain.model_copy(update={"temperature": 2.0}),
        plain.model_copy(update={"length": 48, "overlong": "tail", "answer_budget": 20}),
        plain.model_copy(update={"pack": "none", "isolate": False}),
        plain.model_copy(update={"curriculum": CurriculumSettings(by="quality", first="high")}),
        plain.model_copy(update={"curriculum": CurriculumSettings(by="length")}),
        plain.model_copy(update={"sources": plain.sources[::-1]}),
        changed(plain, max_bad_share=0.1),
    ]
    for number, settings in enumerate(again):
        for out in (tmp_path / "one", tmp_path / f"other{number}"):
            manifest = pack(settings, byte_tokenizer, "sft", out)
            assert encoded() == 0, settings
            once = open_stream(out, settings, "sft", seed=1).once()
            assert once.step(0, once.total, rows=4).reasons == manifest["train"]["cuts"]
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "moved.jsonl")
    moved = changed(plain, path=str(tmp_path / "moved.jsonl"))
    for settings, tasks in (
        (plain.model_copy(update={"turns": "last"}), 2),
        (plain.model_copy(update={"held_out": 0.1}), 2),
        (changed(plain, limit=10), 1),
        (moved, 1),
    ):
        pack(settings, byte_tokenizer, "sft", tmp_path / "two")
        assert encoded() == tasks
    rows(tmp_path / "b.jsonl", 100, 31)
    pack(plain, byte_tokenizer, "sft", tmp_path / "one")
    assert encoded() == 1, "of a changed file only its source"
    pack(plain, byte_tokenizer, "sft", tmp_path / "one", system="Be kind.")
    assert encoded() == 2, "another system prompt is another template"


def test_it_says_what_was_encoded(tmp_path: Path, byte_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = rows(tmp_path / "one.jsonl"), rows(tmp_path / "two.jsonl", 50)
    for sources in ([one], [one, two]):
        pack(data(*sources), byte_tokenizer, "sft", tmp_path / f"{len(sources)}", store=tmp_path / "store")
    told = [line for line in capsys.readouterr().err.splitlines() if " encoded" in line]
    assert told[0].startswith(f"pack: 1 of 1 source encoded; {tmp_path / 'store'} holds 1 token set, ")
    assert told[1].startswith(
        f"pack: 1 of 2 sources encoded, the others were there; {tmp_path / 'store'} holds 2 token sets, "
    )


def test_windows_and_documents_are_one_set(tmp_path: Path, byte_tokenizer: Path, encoded: Count) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"第 {n} 篇 " * 20}) + "\n" for n in range(20)))
    for packing, unit in (("best_fit", "document"), ("concat", "window"), ("none", "document")):
        manifest = pack(data(path, pack=packing), byte_tokenizer, "pretrain", tmp_path / packing)
        stream = open_stream(tmp_path / packing, data(path, pack=packing), "pretrain")
        assert manifest["unit"] == stream.unit == unit
        assert sum(step.tokens for step in stream.steps(0, 7, rows=2)) == manifest["tokens"]
    assert encoded() == 1


def test_a_template_that_writes_the_date_is_told(
    tmp_path: Path, byte_tokenizer: Path, encoded: Count, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plain = Tokenizer.load(byte_tokenizer)
    dated = tmp_path / "dated"
    Tokenizer(plain.backend, plain.config, "{{ strftime_now('%d %b %Y') }}\n" + CHATML).save(dated)
    settings = data(rows(tmp_path / "a.jsonl"))
    pack(settings, dated, "sft", tmp_path / "one")
    assert encoded() == 1 and "serves today only" in capsys.readouterr().err
    pack(settings, dated, "sft", tmp_path / "two")
    assert encoded() == 0

    class Tomorrow(encode_sources.date):
        @classmethod
        def today(cls) -> Any:
            return cls(2100, 1, 1)

    monkeypatch.setattr(encode_sources, "date", Tomorrow)
    pack(settings, dated, "sft", tmp_path / "three")
    assert encoded() == 1


PACK = """
import sys
from pathlib import Path
from danlu.tokens.pack import pack
from danlu.tokens.settings import DataSettings
settings, tokenizer, out = sys.argv[1:]
pack(DataSettings.model_validate_json(settings), Path(tokenizer), "sft", Path(out), store=Path(out).parent / "sets")
"""


def test_processes_at_once_make_one_set(tmp_path: Path, byte_tokenizer: Path) -> None:
    settings = data(rows(tmp_path / "a.jsonl"), rows(tmp_path / "b.jsonl", 50))
    outs = [tmp_path / f"out{number}" for number in range(3)]
    given = [settings.model_dump_json(), str(byte_tokenizer)]
    running = [subprocess.Popen([sys.executable, "-c", PACK, *given, str(out)]) for out in outs]
    assert [process.wait(100) for process in running] == [0, 0, 0]
    places = {TokenSet.open(out / "train" / name).folder.resolve() for out in outs for name in "ab"}
    assert len(places) == 2 and len(Store(tmp_path / "sets").stored()) == 2
    for place in places:
        TokenSet.open(place).verify()


def test_without_locks_the_first_to_finish_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("mine", "theirs"):
        for split in (".", "train", "held_out"):
            (tmp_path / ".work" / name / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / ".work" / name / split / "manifest.json").write_text(json.dumps({"by": name}))
    store.publish(tmp_path / ".work/theirs", "key")
    store.publish(tmp_path / ".work/mine", "key")
    assert store.used("key") == {"by": "theirs"} and not list((tmp_path / ".work").iterdir())


def test_it_says_what_it_holds_and_is_cleared(tmp_path: Path, byte_tokenizer: Path, encoded: Count) -> None:
    settings, out = data(rows(tmp_path / "a.jsonl"), rows(tmp_path / "b.jsonl", 50)), tmp_path / "out"
    pack(settings, byte_tokenizer, "sft", out)
    store = Store(tmp_path / "token-sets")
    assert {one.source for one in store.stored()} == {"a", "b"}
    files = [file for one in store.stored() for file in store.place(one.key).rglob("*.safetensors")]
    assert sum(one.bytes for one in store.stored()) >= sum(file.stat().st_size for file in files) > 0
    old = next(one for one in store.stored() if one.source == "a")
    manifest = store.place(old.key) / "manifest.json"
    os.utime(manifest, (manifest.stat().st_mtime - 3 * DAY,) * 2)
    assert [one.source for one in store.clear(2)] == ["a"] and [one.source for one in store.stored()] == ["b"]
    assert not token_sets_there(out) and encoded() == 2
    pack(settings, byte_tokenizer, "sft", out)
    assert token_sets_there(out) and encoded() == 1
    store.clear(0)
    assert not store.stored() and store.unfinished() == 0
    assert not [path for path in store.folder.rglob("*") if path.is_file()]


def test_tags_and_numbers_stay_with_their_records(tmp_path: Path, byte_tokenizer: Path) -> None:
    tags = {"age": {"value": "25-34", "confidence": 0.9}, "region": {"value": "四川"}, "gender": {"value": None}}
    row = {"kind": "conversation", "source": "s", "messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    ]}  # fmt: skip
    metas: list[dict[str, Any]] = [{"tags": tags, "ppl": 12.5}, {"ppl": "7"}, {"tags": {"age": {"value": "65+"}}}, {}]
    for number, meta in enumerate(metas):
        said = {**row, "messages": [{"role": "user", "content": str(number)}, row["messages"][1]], "meta": meta}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(said))
    source = SourceSettings(path=str(tmp_path / "?.jsonl"))
    settings = DataSettings(sources=[source], held_out=0.0, workers=1, task_bytes=1)
    pack(settings, byte_tokenizer, "sft", tmp_path / "out")
    token_set = TokenSet.open(next((tmp_path / "out/train").iterdir()))
    assert sorted(token_set.example(number).labels for number in range(4)) == [
        (), (), ("age=25-34", "region=四川"), ("age=65+",)
    ]  # fmt: skip
    assert token_set.manifest["scores"] == ["ppl"]
    scores = token_set.shard(0).scores
    assert scores is not None
    assert {7.0, 12.5} <= set(scores[:, 0].tolist()) and np.isnan(scores[:, 0]).sum() == 2
    older = source.model_copy(update={"name": "older", "where": ["meta.tags.age.value == 65+"], "share": 0.5})
    groups = settings.model_copy(update={"sources": [older, source.model_copy(update={"name": "all"})]})
    manifest = pack(groups, byte_tokenizer, "sft", tmp_path / "groups")
    assert manifest["sources"]["older"]["train"]["examples"] == 1, "a tag makes a group of the mix"
    assert {name: of["share"] for name, of in manifest["mix"].items()} == {"older": 0.5, "all": 0.5}
