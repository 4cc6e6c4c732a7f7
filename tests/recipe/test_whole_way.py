"""From a recipe to a served model in one folder: what `danlu run` promises, on a world of seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from rich.cells import cell_len

import danlu
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.ledger.metrics import read_metrics
from danlu.recipe.doctor import examine
from danlu.recipe.export import export_model
from danlu.recipe.inspect import inspect_recipe
from danlu.recipe.plan import print_plan
from danlu.recipe.run import run_recipe
from danlu.recipe.sets import show_sets
from danlu.recipe.settings import TRAINING, load_recipe
from danlu.recipe.smoke import smoked

SMALL = Path(__file__).with_name("small.yaml")
RECIPES = Path(__file__).parents[2] / "recipes"
STAGES = ["sample", "clean", "tokenizer", "pack/pretrain", "pretrain", "pack/sft", "sft", "pack/dpo", "dpo", "evaluate"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run") / "small"
    danlu.run(load_recipe(SMALL, [f"out={folder}"]))
    return folder


def states(out: Path, *overrides: str) -> dict[str, str]:
    outcomes = danlu.run(load_recipe(SMALL, [f"out={out}", *overrides]))
    return {outcome.stage.name: outcome.state for outcome in outcomes}


def test_every_stage_leaves_its_proof(out: Path) -> None:
    for stage in STAGES[:-1]:
        assert read_manifest(out / stage) is not None, stage
    for stage in ("pretrain", "sft", "dpo"):
        rows = read_metrics(out / stage / "metrics.jsonl")
        assert all(row["loss"] > 0 for row in rows if "loss" in row)
    results = json.loads((out / "evaluate" / "results.json").read_text("utf-8"))
    assert list(results) == ["pretrain", "sft", "dpo"]
    assert {"exact_match", "bits_per_byte", "repetition", "side_by_side"} <= results["dpo"].keys()
    assert "<svg" in (out / "report" / "index.html").read_text("utf-8")
    assert (out / "sft" / "loss.png").is_file() or (out / "loss.png").is_file()


def test_a_second_run_does_nothing_and_says_so(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(states(out).values()) == {"unchanged"}
    printed = capsys.readouterr().out
    assert "没有要做的：每个阶段都是最新的" in printed
    assert f"danlu chat {out / 'dpo'}" in printed.replace("\n", "")


def test_a_changed_setting_reruns_just_what_depends_on_it(out: Path) -> None:
    changed = states(out, "dpo.train.beta=0.3")
    assert changed == {**dict.fromkeys(STAGES, "unchanged"), "dpo": "finished", "evaluate": "finished"}
    assert states(out)["dpo"] == "restored"


def test_cleared_token_sets_come_back_once_a_stage_needs_them(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_sets(out.parent / "token-sets")
    assert "3 token sets" in capsys.readouterr().out
    assert sum(file.stat().st_size for file in (out / "pack").rglob("*") if file.is_file()) < 100_000, "an index"
    show_sets(out.parent / "token-sets", clear=0)
    assert set(states(out).values()) == {"unchanged"}
    changed = states(out, "dpo.train.beta=0.4")
    assert [name for name, state in changed.items() if state == "continued"] == [
        "pack/pretrain",
        "pack/sft",
        "pack/dpo",
    ]
    assert changed["dpo"] == "finished" and changed["sft"] == "unchanged"
    assert states(out)["dpo"] == "restored"


def test_the_last_checkpoint_opens_with_transformers(out: Path, tmp_path: Path) -> None:
    export_model(out, tmp_path / "exported", "float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    asked = [{"role": "user", "content": "你是谁？"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    theirs = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    ours = danlu.load(out).chat(asked, max_tokens=8)
    assert ours == tokenizer.decode(theirs, skip_special_tokens=True)
    with pytest.raises(UserError, match="exists"):
        export_model(out, tmp_path / "exported", "float32")


def test_inspect_shows_counts_and_rows(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(SMALL, [f"out={out}"])
    inspect_recipe(recipe, None, None, tmp_path / "rows.html")
    assert "assistant" in capsys.readouterr().out
    assert 'class="loss"' in (tmp_path / "rows.html").read_text("utf-8")
    inspect_recipe(recipe, "sft", 0, None)
    assert "<|im_end|>" in capsys.readouterr().out
    with pytest.raises(UserError, match="no stage"):
        inspect_recipe(recipe, "sfr", None, None)


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["new", "parameters", "checkpoints", "tokens seen", "not there yet", "Times assume 40%"]),
        ("zh", ["新的", "参数", "检查点", "所见词元", "尚不存在", "的 40% 估计", "pack/sft、"]),
    ],
)
def test_a_plan_spends_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    language: str,
    words: list[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_plan(load_recipe(SMALL, [f"out={tmp_path / 'planned'}", f"language={language}"]))
    said = capsys.readouterr().out
    for word in ("pack/pretrain", "tokenizer", "conversations", *words):
        assert word in said, "no word is cut"
    assert "…" not in said and max(map(cell_len, said.splitlines())) <= int(columns)
    assert not list(tmp_path.iterdir())


def test_a_plan_without_training_tells_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = [f"{name}=null" for name in ("tokenizer", "model", "pretrain", "sft", "dpo", "evaluate")]
    print_plan(load_recipe(SMALL, [f"out={tmp_path / 'planned'}", *nothing]))
    said = capsys.readouterr().out
    assert "clean" in said and "训练" not in said and "GFLOP" not in said


def test_a_plan_tells_the_mix(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "{path: 'clean:conversations', name: NAME, MORE}"
    sources = [
        source.replace("NAME", name).replace("MORE", more) for name, more in (("a", "share: 0.8"), ("b", "limit: 9"))
    ]
    overrides = [f"out={out}", f"sft.data.sources=[{', '.join(sources)}]", "pretrain=null", "dpo=null", "evaluate=null"]
    recipe = load_recipe(SMALL, [*overrides, "sft.train.epochs=3", "model.tie_embeddings=true"])
    danlu.run(recipe, until="pack")
    capsys.readouterr()
    print_plan(recipe)
    lines = [line.split() for line in capsys.readouterr().out.split("训练所见")[1].splitlines()]
    shares = {line[3]: line[7] for line in lines if len(line) > 8 and line[1] == "sft"}
    assert shares == {"a": "80.0%", "b": "20.0%"}
    mix = (read_manifest(out / "pack/sft") or {})["mix"]
    assert mix["a"]["seen"] == pytest.approx(4 * mix["b"]["seen"], rel=0.01)
    assert mix["b"]["epochs"] == pytest.approx(mix["b"]["seen"] / mix["b"]["tokens"], rel=0.01)
    states(out)


def test_smoke_keeps_the_stages(tmp_path: Path) -> None:
    recipe = load_recipe(SMALL, [f"out={tmp_path / 'small'}"])
    small = smoked(recipe)
    assert small.out == tmp_path / "small-smoke"
    assert list(small.training()) == list(recipe.training())
    assert small.sft is not None
    assert small.sft.train.steps == 4


def test_the_doctor_finds_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(load_recipe(SMALL, [f"out={out}", "pretrain=null", "dpo=null"]))
    assert "最重的一批" in capsys.readouterr().out


OUT_OF_MEMORY = """
import os
if os.environ.get("RANK") == "1":
    import torch
    from danlu.train.objectives.next_token import NextToken
    compute = NextToken.compute
    def heavy(self, network, batch, factor=1.0):
        if len(batch.tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")
        return compute(self, network, batch, factor)
    NextToken.compute = heavy
"""


def test_two_processes_train_alike(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same recipe with all weights shared out: the losses of one process, to float32's rounding; and where one runs
    out of memory while the other waits for its shards, both start again with fewer rows.
    """
    (tmp_path / "sitecustomize.py").write_text(OUT_OF_MEMORY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    overrides = [f"out={tmp_path / 'two'}", "processes=2", "pretrain.train.sharding=full", "pretrain.train.rows=4"]
    danlu.run(load_recipe(SMALL, overrides), until="pretrain")
    one, two = (
        [row["loss"] for row in read_metrics(folder / "pretrain" / "metrics.jsonl") if "loss" in row]
        for folder in (out, tmp_path / "two")
    )
    assert two == pytest.approx(one, rel=1e-5)
    assert "starting again with a smaller micro-batch" in capfd.readouterr().err
    assert json.loads((tmp_path / "two/pretrain/job.json").read_text())["train"]["rows"] == 2


def test_a_source_of_a_stage_that_is_not_there(tmp_path: Path) -> None:
    recipe = load_recipe(SMALL, [f"out={tmp_path}", "sample=null"])
    with pytest.raises(UserError, match="does not have before clean"):
        danlu.run(recipe)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "nothing.yaml"], "no such file"),
        (["run", str(SMALL), "sft.train.epoch=1"], "did you mean `epochs`"),
        (["sft", str(SMALL), "sft=null"], "no stage `sft`"),
        (["chat", "/no/such/model"], "no such file or folder"),
        (["report", "/no/such/run"], "no such file or folder"),
    ],
)
def test_mistakes_are_told_without_a_traceback(arguments: list[str], part: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "danlu.cli", *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert part in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["sample", "clean", "tokenizer", "pack", "pretrain", "sft", "dpo", "chat", "serve"])
def test_help_lists_settings_with_defaults(command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "danlu.cli", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80", "PATH": "/usr/bin"},
    )
    assert "default" in ended.stdout
    assert "meaning" in ended.stdout
    keys = [line.split("│")[1] for line in ended.stdout.partition("Settings")[2].splitlines() if line.startswith("│")]
    assert keys and not any("…" in key for key in keys), "a key that is cut cannot be written"


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["sft.data.pack=concat"], "would cut through the conversations"),
        (["model.max_positions=64"], "beyond model.max_positions"),
        (["model.vocab_size=128"], "needs a row for every entry"),
        (["tokenizer=null"], "needs a tokenizer"),
        (["tokenizer.train.kind=sentencepiece", "model.family=qwen2"], "does not go with model.family: qwen2"),
        (["model=null"], "needs weights to start from"),
    ],
)
def test_contradictions_stop_before_any_work(overrides: list[str], part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=part):
        load_recipe(SMALL, [f"out={tmp_path}", *overrides])


def test_weights_that_are_not_there_stop_before_any_work(tmp_path: Path) -> None:
    recipe = load_recipe(SMALL, [f"out={tmp_path / 'new'}", "pretrain=null", f"sft.start={tmp_path / 'none'}@epoch=2"])
    with pytest.raises(UserError, match="no checkpoint from the end of epoch 2"):
        danlu.run(recipe)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("recipe", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_reads_and_gets_small(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    for name, section in smoked(loaded).training().items():
        assert section.train.steps == 4
        assert section.data.unit(TRAINING[TRAINING.index(name)])


def test_a_broken_run_goes_on_past_bad_data(tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = [f"out={out}", "sft=null", "dpo=null", "evaluate=null", "pretrain.train.save.every=1"]
    danlu.run(load_recipe(SMALL, [*few, "pretrain.train.steps=3"]))
    past = [*few, "pretrain.train.steps=5", "pretrain.train.skip=[[30, 40]]"]
    danlu.run(load_recipe(SMALL, [*past, "pretrain.train.resume=healthy"]))
    steps = [row["step"] for row in read_metrics(out / "pretrain" / "metrics.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4], "what is skipped counts as seen"
    back = out / "pretrain" / "checkpoints" / "step-000000003"
    danlu.run(load_recipe(SMALL, [*past, f"pretrain.train.resume={back}", "pretrain.train.clip=0.5"]))
    assert [path.name for path in (out / "pretrain" / "abandoned").iterdir()] == ["step-000000004"]
    assert not (out / ".parked").exists()


def test_the_tiny_recipe_smokes_to_its_end(tmp_path: Path) -> None:
    danlu.run(smoked(load_recipe(RECIPES / "tiny.yaml", [f"out={tmp_path / 'tiny'}"])))
    assert (tmp_path / "tiny-smoke" / "report" / "index.html").is_file()


def test_a_smoke_run_holds_out_something_of_every_source(shared_data: Path, tmp_path: Path) -> None:
    loaded = load_recipe(RECIPES / "continue_pretrain.yaml", [f"out={tmp_path / 'law'}", f"data={shared_data}"])
    run_recipe(smoked(loaded), until="pack")
    packed = read_manifest(tmp_path / "law-smoke" / "pack" / "pretrain") or {}
    held_out = {name: source["held_out"]["examples"] for name, source in packed["sources"].items()}
    assert list(held_out) == ["law", "zh", "en"] and all(1 <= count < 32 for count in held_out.values())
    none = smoked(load_recipe(RECIPES / "continue_pretrain.yaml", ["pretrain.data.held_out=0"])).pretrain
    assert none is not None and none.data.held_out == 0


def test_a_recipe_whose_start_is_missing_still_smokes(tmp_path: Path) -> None:
    small = smoked(load_recipe(RECIPES / "mini_qwen_1b" / "dpo.yaml", [f"out={tmp_path / 'q'}"]))
    assert small.dpo is not None
    assert small.dpo.start is None
    assert small.model is not None
    assert small.model.layers == 2
