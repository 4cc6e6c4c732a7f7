"""What was held out is measured, or it is said why not; only where nothing was held out nothing is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from danlu.ledger.errors import UserError
from danlu.recipe.job import TrainingJob, held_out_streams
from danlu.text.settings import SourceSettings
from danlu.tokens.pack import pack
from danlu.tokens.settings import DataSettings, TokenizerTrainSettings
from danlu.tokens.shards import TokenSet
from danlu.tokens.train import train_tokenizer
from danlu.train.settings import TrainSettings

MANY, ONE = "many", "one"
TEXT = "等于几 two plus two 一加一等于二，一加二等于三。 Which is how one learns to count, and no more than that. " * 9


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    """Two packed sources; of the second nothing is held out, as it has one text."""
    rows = {MANY: [f"第{number}篇 document {number}" for number in range(60)], ONE: ["一篇 only one"]}
    for name, texts in rows.items():
        written = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(written), "utf-8")
    train_tokenizer(TokenizerTrainSettings(vocab_size=300), iter([TEXT]), tmp_path / "words")
    data = DataSettings(
        sources=[SourceSettings(path=str(tmp_path / f"{name}.jsonl"), name=name) for name in rows],
        length=64,
        held_out=0.2,
        workers=1,
    )
    pack(data, tmp_path / "words", "pretrain", tmp_path / "packed")
    return TrainingJob(
        stage="pretrain",
        train=TrainSettings(),
        data=data,
        packed=tmp_path / "packed",
        tokenizer=tmp_path / "words",
    )


def held_out(job: TrainingJob, name: str) -> TokenSet:
    return TokenSet.open(job.packed / "held_out" / name)


def test_a_source_of_which_nothing_was_held_out_is_passed_over(job: TrainingJob) -> None:
    assert len(held_out(job, MANY)) > 2 and len(held_out(job, ONE)) == 0
    streams = held_out_streams(job)
    assert list(streams) == [MANY] and streams[MANY].sets[0].fingerprint == held_out(job, MANY).fingerprint


def test_a_damaged_held_out_shard_is_told_before_training(job: TrainingJob) -> None:
    shard = held_out(job, MANY).folder / held_out(job, MANY).shards[0].file
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="this shard is damaged") as told:
        held_out_streams(job)
    assert told.value.where == str(shard)


@pytest.mark.parametrize("source", [MANY, ONE])
def test_a_held_out_set_that_is_gone_is_told(job: TrainingJob, source: str) -> None:
    shutil.rmtree(held_out(job, source).folder)
    with pytest.raises(UserError, match="no complete token set here"):
        held_out_streams(job)


def test_a_held_out_shard_that_is_gone_is_told_before_training(job: TrainingJob) -> None:
    shard = held_out(job, MANY).folder / held_out(job, MANY).shards[0].file
    shard.unlink()
    with pytest.raises(UserError, match="this shard is missing") as told:
        held_out_streams(job)
    assert told.value.where == str(shard)
