"""Multiple choice against plain transformers, the official prompts letter by letter, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from danlu.evaluate.choice_sets import CHOICE_SETS
from danlu.evaluate.multiple_choice import ask_choices, multiple_choice, read_set
from danlu.infer.model import Model, load
from danlu.ledger.progress import progress

NAMES = list(CHOICE_SETS)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return load(tiny_folder, "cpu")


def oracle(folder: Path, context: str, continuations: list[str]) -> list[float]:
    """Summed log-probabilities by transformers alone, one sequence at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums = []
    for continuation in continuations:
        context_ids = tokenizer(context, add_special_tokens=False).input_ids
        ids = tokenizer(context + continuation, add_special_tokens=False).input_ids
        with torch.no_grad():
            logp = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(float(logp[at - 1, ids[at]]) for at in range(len(context_ids), len(ids))))
    return sums


@pytest.mark.parametrize("name", ["cmmlu", "mmlu", "arc_easy", "piqa"])
def test_choices_score_as_in_transformers(model: Model, tiny_folder: Path, shared_data: Path, name: Any) -> None:
    choice_set = CHOICE_SETS[name]
    questions = read_set(choice_set, shared_data / "eval", 3)[:3]
    with progress("test") as bar:
        summary, rows = multiple_choice(model, choice_set, questions, 1, 512, bar)
    right = 0
    for row, (question, examples) in zip(rows, questions, strict=True):
        shots = examples[:1] if name in ("cmmlu", "mmlu") else []
        item = ask_choices(model, choice_set, question, shots, 512)
        assert not item.cut
        context = choice_set.context(question, shots[: item.shots])
        expected = oracle(tiny_folder, context, choice_set.continuations(question))
        assert row["logps"] == pytest.approx(expected, abs=2e-4)
        right += max(range(len(expected)), key=expected.__getitem__) == question["answer"]
    assert summary["accuracy"] == pytest.approx(right / 3)
    assert summary["chance"] == pytest.approx(1 / len(questions[0][0]["choices"]))


def test_prompts_are_the_official_ones(shared_data: Path) -> None:
    example = {"subject": "computer_network", "question": "1+1=？", "choices": ["1", "2", "3", "4"], "answer": 1}
    asked = {"subject": "computer_network", "question": "2+1=？", "choices": ["1", "2", "3", "4"], "answer": 2}
    ceval = CHOICE_SETS["ceval"]
    assert ceval.context(asked, [example]) + ceval.continuations(asked)[2] == (
        "以下是中国关于计算机网络考试的单项选择题，请选出其中的正确答案。\n\n"
        "1+1=？\nA. 1\nB. 2\nC. 3\nD. 4\n答案：B\n\n2+1=？\nA. 1\nB. 2\nC. 3\nD. 4\n答案：C"
    )
    cmmlu, agronomy = CHOICE_SETS["cmmlu"], {**asked, "subject": "agronomy"}
    assert cmmlu.context(agronomy, []) == (
        "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n题目：2+1=？\nA. 1\nB. 2\nC. 3\nD. 4\n答案是："
    )
    mmlu, algebra = CHOICE_SETS["mmlu"], {**asked, "subject": "abstract_algebra"}
    assert mmlu.context(algebra, [example]) + mmlu.continuations(algebra)[0] == (
        "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
        "1+1=？\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n2+1=？\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A"
    )
    hellaswag = {"question": "Clean and jerk: [header] A lady walks. the lady", "choices": ["sits."], "answer": 0}
    assert CHOICE_SETS["hellaswag"].context(hellaswag, []) == "Clean and jerk: A lady walks. The lady"
    assert CHOICE_SETS["piqa"].context({"question": "Question: dresser\n"}, []) == "Question: dresser\nAnswer:"


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_read_and_named(shared_data: Path, name: Any) -> None:
    choice_set = CHOICE_SETS[name]
    questions = read_set(choice_set, shared_data / "eval", 2)
    subjects = {question.get("subject") for question, _ in questions}
    assert len(subjects) == {"ceval": 52, "cmmlu": 47, "mmlu": 57}.get(name, 1)
    assert len(questions) == 2 * len(subjects)
    for question, examples in questions:
        assert len(examples) == (5 if choice_set.lettered else 0)
        assert choice_set.context(question, examples)
        assert 0 <= question["answer"] < len(choice_set.continuations(question))


def test_examples_that_do_not_fit_are_dropped_whole_and_counted(model: Model, shared_data: Path) -> None:
    choice_set = CHOICE_SETS["mmlu"]
    questions = [
        pair for pair in read_set(choice_set, shared_data / "eval", 1) if pair[0]["subject"] == "abstract_algebra"
    ]
    question, examples = questions[0]
    item = ask_choices(model, choice_set, question, examples, 512)
    assert 0 < item.shots < 5
    assert not item.cut
    text = choice_set.context(question, examples[: item.shots])
    assert model.tokenizer.decode(item.pairs[0][0]) == text
    assert max(len(context) + len(choice) for context, choice in item.pairs) <= model.engine.window
    longer = choice_set.context(question, examples[: item.shots + 1]) + " A"
    assert len(model.tokenizer.encode(longer)) > model.engine.window
    with progress("test") as bar:
        summary, _ = multiple_choice(model, choice_set, questions, 5, 512, bar)
    assert (summary["shots"], summary["shots_dropped"], summary["cut"]) == (5, 1, 0)


def test_a_question_longer_than_the_window_loses_its_beginning(model: Model) -> None:
    question = {"question": "长" * 600, "choices": ["是", "不是"], "answer": 0, "subject": "law"}
    item = ask_choices(model, CHOICE_SETS["ceval"], question, [], 512)
    assert item.cut
    assert all(len(context) + len(choice) - 1 <= model.engine.window for context, choice in item.pairs)
    assert model.tokenizer.decode(item.pairs[0][0]).endswith("B. 不是\n答案：")
    with progress("test") as bar:
        summary, _ = multiple_choice(model, CHOICE_SETS["ceval"], [(question, [])], 5, 512, bar)
    assert summary["cut"] == 1


def test_a_moved_token_boundary_keeps_choices_comparable(model: Model) -> None:
    """`ab` + `c` where `bc` is one token: both choices are scored from the last token that they share."""

    ids = {"ab": [1, 2], "abc": [1, 9], "abd": [1, 2, 4]}

    class Merging:
        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [ids[text] for text in texts]

    class Fake:
        tokenizer = Merging()
        engine = model.engine

        def raw_prompt(self, text: str) -> list[int]:
            return [7]

    question = {"question": "ab", "choices": ["c", "d"], "answer": 0}
    plain: Any = type("Plain", (), {"context": lambda *_: "ab", "continuations": lambda *_: ["c", "d"]})()
    fake: Any = Fake()
    item = ask_choices(fake, plain, question, [], 512)
    assert item.merged
    assert item.pairs == [([7, 1], [9]), ([7, 1], [2, 4])]
