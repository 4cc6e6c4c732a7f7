"""The multiple-choice sets: where they lie and how their official prompts read.

C-Eval: Huang et al. 2023 (2305.08322) and its evaluation code; CMMLU: Li et al. 2023 (2306.09212); MMLU: Hendrycks et
al. 2020 (2009.03300), whose code puts two spaces before the subject. The others are scored as continuations, as
lm-evaluation-harness does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.evaluate import subjects
from danlu.evaluate.settings import ChoiceName

Question = dict[str, Any]
"""A row of a set: `question`, `choices` (list of texts), `answer` (index of the right one), perhaps `subject`."""
LETTERS = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """One set of questions.

    `lettered` sets list their choices and ask for a letter; in the others the choice itself goes on from the question.
    `gap` stands between the cue and a choice. `dev` holds the solved examples, five of each subject.
    """

    name: ChoiceName
    language: str
    test: str
    ask: Callable[[Question], str]
    cue: str = ""
    gap: str = " "
    dev: str | None = None
    header: Callable[[str], str] = lambda subject: ""

    @property
    def lettered(self) -> bool:
        return self.dev is not None

    def context(self, question: Question, examples: Sequence[Question]) -> str:
        """The prompt up to where a choice begins, its gap left out."""
        solved = [
            self._prompt(example) + self.continuations(example)[example["answer"]] + "\n\n" for example in examples
        ]
        return self.header(question.get("subject", "")) + "".join(solved) + self._prompt(question)

    def continuations(self, question: Question) -> list[str]:
        """The choices as the model would write them, gap included."""
        choices = LETTERS[: len(question["choices"])] if self.lettered else question["choices"]
        return [self.gap + choice for choice in choices]

    def _prompt(self, question: Question) -> str:
        listed = ""
        if self.lettered:
            listed = "".join(f"\n{LETTERS[i]}. {choice}" for i, choice in enumerate(question["choices"]))
        return self.ask(question) + listed + self.cue


def _plain(question: Question) -> str:
    return str(question["question"])


def _stripped(question: Question) -> str:
    return str(question["question"]).strip()


def _hellaswag(question: Question) -> str:
    """The second half of the context begins with a capital, and bracketed remarks go, as in the harness; the file joins
    both halves, so the half is taken to begin after the last end of a sentence."""
    text = re.sub(r"\[.*?\]", "", str(question["question"])).replace("  ", " ").strip()
    head, gap, tail = text.rpartition(". ")
    return head + gap + tail[:1].upper() + tail[1:]


def _question_line(question: Question) -> str:
    text = _stripped(question)
    return text if text.startswith("Question:") else f"Question: {text}"


def _spaced(subject: str) -> str:
    return " " + subject.replace("_", " ")


CHOICE_SETS: dict[ChoiceName, ChoiceSet] = {
    each.name: each
    for each in (
        ChoiceSet(
            "ceval", "zh", "ceval_val", _plain, "\n答案：", "", "ceval_dev",
            lambda subject: f"以下是中国关于{subjects.CEVAL[subject]}考试的单项选择题，请选出其中的正确答案。\n\n",
        ),
        ChoiceSet(
            "cmmlu", "zh", "cmmlu_test", lambda question: "题目：" + _plain(question), "\n答案是：", "", "cmmlu_dev",
            lambda subject: f"以下是关于{subjects.CMMLU[subject]}的单项选择题，请直接给出正确答案的选项。\n\n",
        ),
        ChoiceSet(
            "mmlu", "en", "mmlu_test", _plain, "\nAnswer:", " ", "mmlu_dev",
            lambda subject: f"The following are multiple choice questions (with answers) about {_spaced(subject)}.\n\n",
        ),
        ChoiceSet("hellaswag", "en", "hellaswag_val", _hellaswag),
        ChoiceSet("arc_easy", "en", "arc_easy_test", _question_line, "\nAnswer:"),
        ChoiceSet("arc_challenge", "en", "arc_challenge_test", _question_line, "\nAnswer:"),
        ChoiceSet("piqa", "en", "piqa_val", _question_line, "\nAnswer:"),
        ChoiceSet("openbookqa", "en", "openbookqa_test", _stripped),
        ChoiceSet("commonsenseqa", "en", "commonsenseqa_dev", _question_line, "\nAnswer:"),
    )
}  # fmt: skip
