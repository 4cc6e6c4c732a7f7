"""The life of a record: found by any id, told step by step, up to the training steps that saw it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.metrics import Metric, MetricsWriter
from danlu.recipe.explain import explain
from danlu.recipe.job import TrainingJob, training_stream
from danlu.recipe.settings import load_recipe
from danlu.recipe.stages import clean
from danlu.text.records import Document, content_hash
from danlu.text.settings import CleanSettings

TAIL = "The ferry leaves the harbour at nine and comes back with the mail before the evening bell is rung on the pier."
BATCH = 3


def rows() -> list[str]:
    texts = [f"第{n}条记录：今天的天气不错，适合出门散步。编号{n * 7919}。" for n in range(20)]
    texts += [
        "太短",
        texts[4],
        f"{TAIL} One.",
        f"{TAIL} Two.",
        "联系电话13812345678，找老王问路就好了。",
        "结尾的空格   \r\n正文。",
    ]
    return texts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has cleaned, packed, and trained 12 steps on windows of 16 tokens, three a step."""
    out = tmp_path_factory.mktemp("run")
    raw = out / "web.jsonl"
    raw.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows()))
    steps = [{"op": "normalise"}, {"op": "language"}, {"op": "length", "min": 8}, {"op": "exact_dedup"},
             {"op": "near_dedup"}, {"op": "privacy"}]  # fmt: skip
    clean(check(CleanSettings, {"sources": [{"path": str(raw)}], "steps": steps, "workers": 1}), out / "clean")
    recipe = out / "recipe.yaml"
    content = {
        "name": "small",
        "out": str(out),
        "tokenizer": {"train": {"vocab_size": 320, "reserved": 0}},
        "model": {"layers": 1, "hidden_size": 16, "heads": 1, "vocab_size": 320, "max_positions": 64},
        "pretrain": {
            "data": {"sources": [{"path": str(out / "clean")}], "length": 16, "pack": "concat", "held_out": 0.2},
            "train": {"epochs": 2, "batch": BATCH},
        },
    }  # fmt: skip
    recipe.write_text(json.dumps(content, ensure_ascii=False))
    from danlu.recipe.run import run_recipe

    loaded = load_recipe(recipe)
    run_recipe(loaded, until="pack")
    assert loaded.pretrain
    job = TrainingJob(
        stage="pretrain", train=loaded.pretrain.train, data=loaded.pretrain.data, packed=out / "pack" / "pretrain",
        tokenizer=out / "tokenizer", model=loaded.model,
    )  # fmt: skip
    (out / "pretrain").mkdir()
    (out / "pretrain" / "job.json").write_text(job.model_dump_json(by_alias=True))
    writer = MetricsWriter(out / "pretrain" / "metrics.jsonl", {"consumed": Metric("", "", "")})
    for step in range(1, 13):
        writer.write(step, consumed=step * BATCH)
    writer.close()
    return out


def told(run: Path, wanted: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    explain(run, wanted, as_json=True)
    lives: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return lives


def test_a_dropped_record_tells_step_reason_value_and_twin(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [short] = told(run, "web.jsonl:21", capsys)
    assert not short["kept"] and [step["step"] for step in short["steps"]] == ["normalise", "language", "length"]
    assert short["steps"][-1] == {
        "step": "length", "values": {"characters": 2}, "bounds": {"characters": [8, None]},
        "dropped": "too short", "value": 2,
    }  # fmt: skip
    [equal] = told(run, "web.jsonl:22", capsys)
    assert equal["steps"][-1]["dropped"] == "duplicate" and equal["twin"] == {"id": "web.jsonl:5", "text": rows()[4]}
    [near] = told(run, "web.jsonl:24", capsys)
    assert near["steps"][-1]["dropped"] == "near duplicate" and near["twin"]["id"] == "web.jsonl:23"
    assert near["steps"][-1]["values"]["jaccard"] >= 0.8


def test_a_changed_record_tells_what_changed_and_covers_personal_data(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [spaced] = told(run, "web.jsonl:26", capsys)
    assert (spaced["steps"][0]["before"], spaced["steps"][0]["after"]) == (rows()[25], "结尾的空格\n正文。")
    [called] = told(run, "web.jsonl:25", capsys)
    assert called["steps"][-1]["values"]["mobile"] == 1 and "13812345678" not in json.dumps(called)


def test_it_is_found_by_hash_and_by_its_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = f"{content_hash(Document(rows()[7])):016x}"
    [by_hash], [by_text] = told(run, digest, capsys), told(run / "clean", "编号55433。", capsys)
    assert by_hash["id"] == by_text["id"] == "web.jsonl:8" and by_hash["hash"] == digest
    assert by_text["training"] == []


def test_a_kept_record_tells_every_step_that_saw_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = training_stream(check(TrainingJob, json.loads((run / "pretrain" / "job.json").read_text())))
    held_out = 0
    for line in range(1, 21):
        [life] = told(run, f"web.jsonl:{line}", capsys)
        [training] = life["training"]
        assert training["tokens"] > 10
        if training["split"] == "held_out":
            held_out += 1
            assert training["sights"] == []
            continue
        seen = {trace.position for trace in stream.trace(0, stream.total) if int(life["hash"], 16) in trace.hashes}
        assert {sight["position"] for sight in training["sights"]} == seen and len(seen) >= 2
        for sight in training["sights"]:
            step = sight["position"] // BATCH + 1
            assert sight["step"] == (step if step <= 12 else None)
            assert sight["epoch"] == sight["position"] // stream.epoch
    assert 0 < held_out < 20


def test_the_terminal_shows_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain(run, "web.jsonl:24")
    shown = " ".join(capsys.readouterr().out.split())
    assert "dropped: near duplicate" in shown and "its twin web.jsonl:23" in shown and "[-Two-]{+One+}" in shown
    explain(run, "web.jsonl:1")
    shown = capsys.readouterr().out
    assert "kept" in shown and ("position" in shown or "held out" in shown)


def test_unknown_ids_name_the_nearest_and_other_folders_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no record has the id.*\n.*web.jsonl:26"):
        explain(run, "web.jsonl:99")
    with pytest.raises(UserError, match=r"the nearest are web.jsonl:1"):
        explain(run, "wab.jsonl:3")
    with pytest.raises(UserError, match="no finished clean stage"):
        explain(tmp_path, "web.jsonl:1")
    with pytest.raises(UserError, match="no such folder"):
        explain(tmp_path / "nowhere", "web.jsonl:1")


@pytest.mark.parametrize("nothing", ["", " "])
def test_nothing_is_no_piece_of_every_text(run: Path, nothing: str) -> None:
    with pytest.raises(UserError, match="no record is named"):
        explain(run, nothing)
