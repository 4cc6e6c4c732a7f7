"""The whole evaluation of a tiny model: what is written, what is taken over, what is measured again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from danlu.evaluate.evaluate import evaluate
from danlu.evaluate.settings import EvaluateSettings
from danlu.evaluate.side_by_side import markdown
from danlu.ledger.errors import UserError

QUESTIONS = [
    {"question": "李白是谁？", "answer": ["诗人", "李白是诗人。"], "kind": "relation", "language": "zh"},
    {"question": "What is a fox?", "answer": "an animal", "kind": "relation", "language": "en"},
    {"question": "1 + 1 = ?", "answer": "2", "kind": "sum", "language": "en"},
]


def write_questions(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> EvaluateSettings:
    questions = write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    return EvaluateSettings(
        questions=questions, references=questions, prompts=["绿豆糕", "tell me a story"], max_tokens=8, prompt_tokens=12
    )


def greedy(folder: Path, prompt: str, most: int) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = ids["input_ids"] if not isinstance(ids, torch.Tensor) else ids
    out = network.generate(ids, do_sample=False, max_new_tokens=most, eos_token_id=tokenizer.eos_token_id)
    new = out[0, ids.shape[1] :].tolist()
    return new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new


def test_everything_is_measured_written_and_taken_over(
    tiny_folder: Path, settings: EvaluateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    models = {"pretrain": tiny_folder, "sft": tiny_folder}
    results = evaluate(settings, models, out)
    assert json.loads((out / "results.json").read_text("utf-8")) == results
    assert results["sft"]["exact_match"]["n"] == 3
    assert results["sft"]["exact_match"]["form"] == "chat"
    assert results["pretrain"]["exact_match"]["form"] == "raw"
    assert results["sft"]["repetition"]["n"] == 3 + 3 + 2
    assert set(results["sft"]["overlap"]["language"]) == {"zh", "en"}
    rows = [json.loads(line) for line in (out / "samples/sft/side_by_side.jsonl").read_text("utf-8").splitlines()]
    assert [row["tokens"] for row in rows] == [greedy(tiny_folder, prompt, 12) for prompt in settings.prompts]
    asked = [json.loads(line) for line in (out / "samples/sft/exact_match.jsonl").read_text("utf-8").splitlines()]
    assert [row["tokens"] for row in asked] == [greedy(tiny_folder, str(row["question"]), 8) for row in QUESTIONS]
    assert "| 绿豆糕 |" in (out / "side_by_side.md").read_text("utf-8")

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded though nothing changed")

    monkeypatch.setattr("danlu.infer.model.load", unexpected)
    assert evaluate(settings, models, out) == results
    with pytest.raises(AssertionError, match="nothing changed"):
        evaluate(settings.model_copy(update={"max_tokens": 9}), models, out)


def test_a_changed_question_file_is_asked_again(tiny_folder: Path, settings: EvaluateSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = evaluate(settings, {"sft": tiny_folder}, out)
    assert settings.questions
    write_questions(settings.questions, QUESTIONS[:2])
    second = evaluate(settings, {"sft": tiny_folder}, out)
    assert (first["sft"]["exact_match"]["n"], second["sft"]["exact_match"]["n"]) == (3, 2)
    assert first["sft"]["side_by_side"] == second["sft"]["side_by_side"]


def test_limit_takes_the_first_of_each_kind_and_language(
    tiny_folder: Path, settings: EvaluateSettings, tmp_path: Path
) -> None:
    results = evaluate(
        settings.model_copy(update={"limit": 1, "references": None}), {"sft": tiny_folder}, tmp_path / "out"
    )
    assert results["sft"]["exact_match"]["n"] == 3
    assert "overlap" not in results["sft"]


def test_bad_questions_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_questions(tmp_path / "bad.jsonl", [QUESTIONS[0], {"question": "x", "answer": []}])
    with pytest.raises(UserError, match=r"bad\.jsonl:2"):
        evaluate(EvaluateSettings(questions=path), {"sft": tiny_folder}, tmp_path / "out")
    with pytest.raises(UserError, match="no such file"):
        evaluate(EvaluateSettings(questions=tmp_path / "absent.jsonl"), {"sft": tiny_folder}, tmp_path / "out")


def test_the_markdown_table_escapes_what_models_write() -> None:
    column = {"form": "raw", "answers": [{"prompt": "a|b", "answer": "<b>\nx", "ended": False, "loops": True}]}
    assert markdown({"m": column}).splitlines()[2] == r"| a\|b | &lt;b><br>x 🔁 … |"


def test_sampled_answers_are_the_same_each_time_and_alone_count_for_repetition(
    tiny_folder: Path, settings: EvaluateSettings, tmp_path: Path
) -> None:
    asked = settings.model_copy(update={"sampled": True, "references": None})
    first, second = (evaluate(asked, {"sft": tiny_folder}, tmp_path / name)["sft"] for name in ("a", "b"))
    assert first == second
    assert first["sampled"]["n"] == first["repetition"]["n"] == len(QUESTIONS)
    rows = {
        task: (tmp_path / "a" / "samples" / "sft" / f"{task}.jsonl").read_text("utf-8")
        for task in ("exact_match", "sampled")
    }
    assert rows["exact_match"] != rows["sampled"]
