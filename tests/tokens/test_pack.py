"""The pack stage: every record in one token set, whatever the files, tasks, workers and interruptions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from danlu.ledger.errors import UserError
from danlu.text.holdout import is_held_out
from danlu.text.records import Document, content_hash
from danlu.text.settings import SourceSettings
from danlu.tokens.pack import open_stream, pack
from danlu.tokens.settings import DataSettings
from danlu.tokens.shards import TokenSet
from danlu.tokens.tokenizer import Tokenizer

TEXTS = [f"第{number}篇 document {number}: " + "文字 and words，" * (number % 7) for number in range(60)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def data(path: Path, **settings: Any) -> DataSettings:
    source = SourceSettings(**{"path": str(path), "name": "texts", **settings.pop("source", {})})
    return DataSettings(sources=[source], **{"length": 64, "held_out": 0.2, "workers": 1, **settings})


def texts_of(folder: Path, tokenizer: Path) -> list[str]:
    token_set, opened = TokenSet.open(folder), Tokenizer.load(tokenizer)
    token_set.verify()
    found = [token_set.example(number).documents[0] for number in range(len(token_set))]
    ends = {int(document.tokens[-1]) for document in found}
    assert ends <= {opened.special["<|im_end|>"]}
    return [opened.decode(document.tokens[:-1].tolist(), skip_special=False) for document in found]


def prints(out: Path) -> list[str]:
    return [TokenSet.open(out / split / "texts").fingerprint for split in ("train", "held_out")]


def test_every_document_is_in_one_split_by_what_it_says(tmp_path: Path, byte_tokenizer: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    manifest = pack(data(path), byte_tokenizer, "pretrain", tmp_path / "out")
    held_out = {text for text in TEXTS if is_held_out(content_hash(Document(text)), 0.2)}
    assert 2 < len(held_out) < 30
    assert sorted(texts_of(tmp_path / "out/train/texts", byte_tokenizer)) == sorted(set(TEXTS) - held_out)
    assert sorted(texts_of(tmp_path / "out/held_out/texts", byte_tokenizer)) == sorted(held_out)
    train = manifest["train"]
    assert train["documents"] == manifest["examples"] == len(TEXTS) - len(held_out)
    assert train["tokens"] == train["tokens_in_loss"] == sum(len(t.encode()) + 1 for t in set(TEXTS) - held_out)
    assert not [file for file in tmp_path.rglob("*") if "runs" in file.parts[len(tmp_path.parts) :]]
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file()) < 20_000, "an index"


def test_files_tasks_and_workers_do_not_matter(tmp_path: Path, byte_tokenizer: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    whole = write_rows(tmp_path / "whole.jsonl", rows)
    for number in range(3):
        write_rows(tmp_path / "parts" / f"{number}.jsonl", rows[number::3])
    small = {"shard_tokens": 500, "task_bytes": 600}
    apart = iter([{"store": tmp_path / name} for name in "abc"])
    pack(data(whole, shard_tokens=500), byte_tokenizer, "pretrain", tmp_path / "one", **next(apart))
    pack(data(tmp_path / "parts", **small), byte_tokenizer, "pretrain", tmp_path / "two", **next(apart))
    pack(data(tmp_path / "parts", **small, workers=2), byte_tokenizer, "pretrain", tmp_path / "three", **next(apart))
    assert prints(tmp_path / "one") == prints(tmp_path / "two") == prints(tmp_path / "three")
    shards = TokenSet.open(tmp_path / "one/train/texts").shards
    assert len(shards) > 3 and min(shard.documents for shard in shards) > 0


def test_nothing_is_done_twice_and_broken_work_goes_on(tmp_path: Path, byte_tokenizer: Path) -> None:
    path, out = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS]), tmp_path / "out"
    pack(data(path, shard_tokens=500), byte_tokenizer, "pretrain", out)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    expected = prints(out)
    pack(data(path, shard_tokens=500, workers=2), byte_tokenizer, "pretrain", out)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    for damaged in ("train", "."):
        shutil.rmtree(TokenSet.open(out / "train/texts").folder.parent / damaged)
        pack(data(path, shard_tokens=500), byte_tokenizer, "pretrain", out)
        assert prints(out) == expected


def test_other_settings_leave_nothing_of_the_old(tmp_path: Path, byte_tokenizer: Path) -> None:
    path, out = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS]), tmp_path / "out"
    pack(data(path, shard_tokens=300), byte_tokenizer, "pretrain", out)
    pack(data(path, held_out=0.0, source={"limit": 10}), byte_tokenizer, "pretrain", out)
    assert sorted(texts_of(out / "train/texts", byte_tokenizer)) == sorted(TEXTS[:10])
    assert [entry.file for entry in TokenSet.open(out / "train/texts").shards] == ["shard-00000.safetensors"]
    assert len(TokenSet.open(out / "held_out/texts")) == 0
    pack(data(path, source={"name": "others"}), byte_tokenizer, "pretrain", out)
    assert [folder.name for folder in (out / "train").iterdir()] == ["others"]


def said(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


def test_conversations_and_what_is_left_out(tmp_path: Path, byte_tokenizer: Path) -> None:
    rows = [said(f"你好 {number}", "Hello，世界") for number in range(20)]
    rows += [said("x" * 500, "too long a prompt"), said("old", "turn " * 6, "new", "answer"), {"messages": []}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    settings = data(path, length=80, held_out=0.0, source={"max_bad_share": 0.5})
    manifest = pack(settings, byte_tokenizer, "sft", tmp_path / "out", system="none")
    train = manifest["train"]
    assert train["examples"] == 22 and set(train["tokens_in_loss_by_role"]) == {"assistant"}
    assert sum(entry["count"] for entry in manifest["sources"]["texts"]["counts"].values()) >= 23
    stream = open_stream(tmp_path / "out", settings, "sft", seed=1)
    step = stream.step(0, stream.total, rows=4)
    assert step.examples == 22 and step.reasons == train["cuts"] and sum(step.reasons.values()) == 2
    kept = open_stream(tmp_path / "out", settings.model_copy(update={"overlong": "head"}), "sft", seed=1)
    assert kept.step(0, 22, rows=4).tokens > step.tokens


def test_pairs(tmp_path: Path, byte_tokenizer: Path) -> None:
    rows = [{"prompt": f"问题 {n}", "chosen": f"good {n}", "rejected": "坏" * (n % 5 + 1)} for n in range(12)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    settings = data(path, held_out=0.0, shard_tokens=200)
    manifest = pack(settings, byte_tokenizer, "dpo", tmp_path / "out")
    assert (manifest["examples"], manifest["train"]["documents"]) == (12, 24)
    token_set, opened = TokenSet.open(tmp_path / "out/train/texts"), Tokenizer.load(byte_tokenizer)
    assert len(token_set) == 12 and len(token_set.shards) > 2
    for number in range(12):
        chosen, rejected = (opened.decode(side.tokens.tolist()) for side in token_set.example(number).documents)
        at = chosen.split("good ")[1].split()[0]
        assert f"问题 {at}" in chosen and f"问题 {at}\n" in rejected and "坏" in rejected
    assert open_stream(tmp_path / "out", settings, "dpo").step(0, 12, rows=2).pairs == 12


def test_too_many_bad_rows_end_it(tmp_path: Path, byte_tokenizer: Path) -> None:
    rows = [said("你好", "hello"), *({"unknown": number} for number in range(9))]
    settings = data(write_rows(tmp_path / "a.jsonl", rows), source={"max_bad_share": 0.8})
    with pytest.raises(UserError, match="9 of 10 rows"):
        pack(settings, byte_tokenizer, "sft", tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_mistakes_are_explained(tmp_path: Path, byte_tokenizer: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    with pytest.raises(UserError, match="concat"):
        pack(data(path, pack="concat"), byte_tokenizer, "sft", tmp_path / "out")
    with pytest.raises(UserError, match="terminator"):
        pack(data(path), byte_tokenizer, "pretrain", tmp_path / "out", terminator="<eod>")
    with pytest.raises(UserError, match="called texts"):
        two = data(path).model_copy(update={"sources": data(path).sources * 2})
        pack(two, byte_tokenizer, "pretrain", tmp_path / "out")
    with pytest.raises(UserError):
        pack(data(path), byte_tokenizer, "dpo", tmp_path / "out")
    with pytest.raises(ValueError, match="answer_budget"):
        data(path, answer_budget=64)


def test_workers_start_without_torch_and_transformers() -> None:
    code = "import sys, danlu.tokens.pack_tasks; sys.exit(int(bool({'torch', 'transformers'} & set(sys.modules))))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_useful_share_on_the_real_rows(tmp_path: Path, shared_data: Path, qwen_tokenizer: Path) -> None:
    """192 of mini_qwen's conversations a step at 1,024: at least 95% of what is computed are tokens of text."""
    settings = DataSettings(
        sources=[SourceSettings(path=str(shared_data / "mini_qwen/sft"))], held_out=0.0, overlong="head", workers=1
    )
    pack(settings, qwen_tokenizer, "sft", tmp_path / "out", system="none")
    stream = open_stream(tmp_path / "out", settings, "sft", seed=42, epochs=3)
    rows = stream.fullest_rows(192, 1, 4)
    steps = [stream.step(start, 192, rows=rows) for start in (0, 192, 384)]
    shares = [1 - step.padding for step in steps]
    print(f"useful tokens at {rows} rows: {', '.join(f'{share:.2%}' for share in shares)}")
    assert min(shares) >= 0.95
    assert not [reason for step in steps for reason in step.reasons if reason.startswith("dropped")]
    unpacked = open_stream(tmp_path / "out", settings.model_copy(update={"pack": "none"}), "sft", seed=42)
    assert unpacked.step(0, 192, rows=rows).padding > 0.4, "a row each wastes nearly half"
    hashes = Counter(trace.hashes for trace in stream.trace(0, 200))
    assert len(hashes) == 200
