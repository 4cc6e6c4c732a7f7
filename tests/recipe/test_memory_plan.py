"""What `danlu doctor --gpu` and `--dry-run` say of memory, on the recipes for open models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.ledger.errors import UserError
from danlu.model.settings import ModelSettings
from danlu.recipe.doctor import plan_for
from danlu.recipe.job import TrainingJob, run_job
from danlu.recipe.memory import planned
from danlu.recipe.plan import print_plan
from danlu.recipe.settings import Recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
GIB, MIB = 2**30, 2**20


def recipe(name: str, *more: str) -> Recipe:
    """With data and a model that are not there."""
    return load_recipe(RECIPES / f"{name}.yaml", ["data=absent", "out=absent/run", *more])


def test_doctor_needs_neither_data_nor_model_nor_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_for(recipe("firefly_baichuan_7b_qlora"), 11)
    said = capsys.readouterr().out
    assert "11 GiB 的 GPU 上一步所占" in said and "recompute: true（当前设置）" in said and "放不下" in said
    assert plan_for(recipe("firefly_baichuan_7b_qlora", "language=en"), 11)
    said = capsys.readouterr().out
    assert "a GPU of 11 GiB" in said and "recompute: true (as set)" in said and "does not fit" in said
    assert all(part in said for part in ("weights", "adapters", "gradients", "activations", "loss"))
    assert "are paged" in said, "its moments are paged"
    assert not plan_for(recipe("firefly_baichuan_7b_qlora", "sft.train.tune={method: full}"), 48)


@pytest.mark.parametrize(
    ("gpu", "more", "said"),
    [
        (16, [], "✗ pretrain: not even the smallest micro-batch fits: set pretrain.train.tune to an adapter"),
        (24, [], "→ pretrain: set pretrain.train.recompute=true, the better here; micro-batches of up to 26 × 1,024"),
        (24, ["language=zh"], "→ pretrain：设 pretrain.train.recompute=true，在此更合适；微批最多 26 × 1,024 个词元"),
        (24, ["pretrain.train.recompute=true"], "→ pretrain: recompute: true, as set; micro-batches of up to 26 × "),
        (
            80,
            [],
            "→ pretrain: recompute: false, as set; micro-batches of up to 19 × 1,024 tokens, the logits of 3,892 ",
        ),
        (80, ["pretrain.train.recompute=true"], "→ pretrain: set pretrain.train.recompute=false, the better here"),
    ],
)
def test_doctor_picks_what_a_gpu_holds(
    gpu: int, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows, recomputation and the chunk of the loss: 1.25 times the operations pay where else a micro-batch is small;
    151,936 logits in bf16 fill a sixtieth of the GPU.
    """
    plan_for(recipe("mini_qwen_1b/pretrain", "language=en", *more), gpu)
    printed = capsys.readouterr().out
    assert said in printed
    chunk, rows = gpu * GIB // 60 // (151_936 * 2), 26 if gpu == 24 else 19
    held = -(-rows * 1024 // -(-rows * 1024 // chunk))
    assert gpu == 16 or "recompute=false" in said or f"{held:,}" in printed
    assert ("1,152" in printed) == (gpu > 16), "the global batch stays"


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "○ sft.train.tune.rank: rank 8 where 64 is usual for QLoRA: 0.125 times the parameters and moments."),
        ("zh", "○ sft.train.tune.rank: rank 为 8，QLoRA 通常用 64：适配器的参数和动量是其 0.125 倍。"),
    ],
)
def test_doctor_comments_without_data(language: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan_for(recipe("baichuan_7b_belle_qlora", f"language={language}"), 24)
    printed = capsys.readouterr().out
    assert said in printed and "warmup" not in printed, "what hangs on the data is not guessed"


def test_a_method_takes_what_it_is_known_for() -> None:
    full, lora = "sft.train.tune={method: full}", "sft.train.tune={method: lora, rank: 16}"
    found = {
        name: planned(recipe("llama2_7b_qlora", "sft.train.rows=1", *more), "sft", 80 * GIB).memory
        for name, more in {"full": [full], "lora": [lora], "qlora": []}.items()
    }
    assert found["full"].masters == pytest.approx(6_738_415_616 * 4, rel=1e-3) and found["full"].adapters == 0
    assert found["lora"].weights == pytest.approx(6_738_415_616 * 2, rel=1e-3)
    assert found["lora"].masters < found["full"].masters / 100 < found["lora"].weights
    assert found["qlora"].weights < found["lora"].weights / 3


def test_rows_follow_the_gpu_and_the_unit() -> None:
    rows = [planned(recipe("qwen_dpo_lora"), "dpo", size * GIB).rows for size in (40, 60, 140)]
    assert rows == sorted(set(rows))
    assert all(count % 2 == 0 for count in rows), "a pair lies whole in a micro-batch"
    assert not planned(recipe("qwen_dpo_lora"), "dpo", 12 * GIB).fits
    several = planned(recipe("qwen_dpo_lora", "processes=8", "dpo.train.sharding=full"), "dpo", 80 * GIB)
    assert several.memory.masters < planned(recipe("qwen_dpo_lora"), "dpo", 80 * GIB).memory.masters


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the memory of the host")
def test_a_run_that_cannot_fit_ends_before_anything_is_read(tmp_path: Path) -> None:
    huge = ModelSettings(vocab_size=150_000, hidden_size=16_384, layers=99, heads=128, kv_heads=8, mlp_size=65_536)
    job = TrainingJob.model_validate(
        {
            "stage": "sft",
            "train": {"precision": "bf16"},
            "data": {"sources": [{"path": "absent.jsonl"}], "length": 1024},
            "packed": tmp_path / "absent",
            "tokenizer": tmp_path / "absent",
            "model": huge.model_dump(),
        }
    )
    with pytest.raises(UserError, match=r"a step takes at least .* GiB \(moments .*\), and .* GiB are free"):
        run_job(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_say_what_is_counted(language: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / language / "open_models.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `") and line.count("|") == 7]
    assert len(rows) == 8
    for name, length, smallest, *most in ([cell.strip(" `") for cell in row] for row in rows):
        (stage,) = recipe(name).training()
        least = recipe(name, f"{stage}.train.rows={2 if stage == 'dpo' else 1}")
        assert float(smallest) == pytest.approx(planned(least, stage, 80 * GIB).memory.total / GIB, abs=0.06), name
        assert int(length.replace(",", "")) == least.training()[stage].data.length
        found = [planned(recipe(name), stage, size * GIB) for size in (11, 24, 48)]
        assert most == [str(one.rows) if one.fits else "–" for one in found], name


def planned_rows(told: str) -> dict[str, list[str]]:
    """The table of what training takes, by stage."""
    table = told.partition("What training takes")[2].partition("What training sees")[0]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    return {name: rest for name, *rest in cells}


def test_a_dry_run_says_what_steps_take_before_the_text_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Path(__file__).with_name("small.yaml")
    print_plan(load_recipe(small, [f"out={tmp_path / 'out'}", "sft.train.steps=null", "language=en"]))
    told = planned_rows(capsys.readouterr().out)
    assert told["pretrain"][0] == "≈ 4.1k", "4 steps of 8 rows of 128 tokens"
    assert told["dpo"][0] == "≈ 6.14k", "3 steps of 4 pairs, each twice 256 tokens"
    assert told["pretrain"][4].startswith("≈ ")
    assert (told["sft"][0], told["sft"][4]) == ("not there yet", "")
    assert all(row[2].endswith("MiB") and not row[2].startswith("0") and row[3][0] != "0" for row in told.values())


def test_doctor_tells_small_parts_in_small_units(capsys: pytest.CaptureFixture[str]) -> None:
    asked = recipe("tiny", "language=en")
    plan_for(asked, 11)
    said, memory = capsys.readouterr().out, planned(asked, "pretrain", 11).memory
    assert f"{memory.masters / MIB:.2f} MiB" in said and " 0.00 " not in said
    assert MIB <= memory.masters < GIB
