"""What can be measured of one model: each task gives its values, and rows that show how they came about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.evaluate.ask import AS_IT_IS, GREEDY, Form, ask, question_prompt
from danlu.evaluate.bits_per_byte import bits_per_byte, require_tokenizer, token_sets
from danlu.evaluate.choice_sets import CHOICE_SETS, ChoiceSet
from danlu.evaluate.exact_match import exact_match, matches
from danlu.evaluate.held_out_prompts import held_out_prompts
from danlu.evaluate.multiple_choice import multiple_choice, read_set
from danlu.evaluate.overlap import overlap
from danlu.evaluate.preference import preference
from danlu.evaluate.repetition import Answer
from danlu.evaluate.rows import file_hash, language_of, read_questions
from danlu.evaluate.settings import EvaluateSettings
from danlu.evaluate.side_by_side import Asked, as_asked, side_by_side
from danlu.infer.settings import SamplingSettings
from danlu.ledger.progress import progress
from danlu.tokens.settings import Unit
from danlu.tokens.shards import TokenSet

if TYPE_CHECKING:
    from danlu.infer.model import Model

Rows = Iterable[dict[str, Any]]
SAMPLED = "sampled"


@dataclass(frozen=True)
class Task(ABC):
    """One measurement. `answers` says that its rows are generated answers, on which repetition is measured too;
    `rewards` that it is of reward models, and not of models that write.
    """

    settings: EvaluateSettings
    name: str
    answers = False
    rewards = False

    @abstractmethod
    def inputs(self) -> Any:
        """All besides the model that decides the values, JSON-like."""

    @abstractmethod
    def run(self, model: Model, form: Form, title: str) -> tuple[dict[str, Any], Rows]:
        """The values and the rows of one model."""


@dataclass(frozen=True)
class BitsPerByte(Task):
    def inputs(self) -> Any:
        sets = {name: [each.fingerprint for each in token_sets(path)] for name, path in self.settings.held_out.items()}
        return [sets, self.settings.max_documents, self.settings.window]

    def run(self, model: Model, form: Form, title: str) -> tuple[dict[str, Any], Rows]:
        values = {}
        for name, path in self.settings.held_out.items():
            sets, most = [one for one in token_sets(path) if len(one)], self.settings.max_documents
            if not sets:  # so little text that nothing was held out
                continue
            with progress(
                f"{title}, {name}", sum(min(len(each), most or len(each)) for each in sets), "documents"
            ) as bar:
                values[name] = bits_per_byte(model, sets, most, _window(model, self.settings), bar)
        return values, []


@dataclass(frozen=True)
class ExactMatch(Task):
    path: Path
    answers = True
    sampling: SamplingSettings = GREEDY

    def inputs(self) -> Any:
        limits = [self.settings.limit, self.settings.max_tokens, self.settings.window]
        return [file_hash(self.path), *limits, self.sampling.model_dump()]

    def run(self, model: Model, form: Form, title: str) -> tuple[dict[str, Any], Rows]:
        questions = read_questions(self.path, self.settings.limit)
        answers = _asked(model, questions, form, self.settings, self.settings.max_tokens, title, self.sampling)
        rows = [
            {**question, **_row(answer), "right": matches(answer.text, question["answers"])}
            for question, answer in zip(questions, answers, strict=True)
        ]
        return {"form": form, **exact_match(rows)}, rows


@dataclass(frozen=True)
class Overlap(Task):
    path: Path
    answers = True

    def inputs(self) -> Any:
        return [file_hash(self.path), self.settings.limit, self.settings.prompt_tokens, self.settings.window]

    def run(self, model: Model, form: Form, title: str) -> tuple[dict[str, Any], Rows]:
        questions = read_questions(self.path, self.settings.limit)
        answers = _asked(model, questions, form, self.settings, self.settings.prompt_tokens, title)
        rows = [{**question, **_row(answer)} for question, answer in zip(questions, answers, strict=True)]
        parts: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            parts.setdefault(row["language"], []).append(row)
        values = {
            language: overlap([row["text"] for row in part], [row["answers"] for row in part], language)
            for language, part in sorted(parts.items())
        }
        return {"form": form, "language": values}, rows


@dataclass(frozen=True)
class SideBySide(Task):
    answers = True

    def inputs(self) -> Any:
        sets = [self.settings.held_out_prompts, *(one.fingerprint for one in self._sets())]
        return [self.settings.prompts, self.settings.prompt_tokens, self.settings.window, sets]

    def run(self, model: Model, form: Form, title: str) -> tuple[dict[str, Any], Rows]:
        prompts = [*map(as_asked, self.settings.prompts), *self._held_out(model)]
        if form == "chat":
            encoded = [model.chat_prompt(one.messages) for one in prompts]
        else:
            encoded = [model.raw_prompt(one.prompt) for one in prompts]
        with progress(title, len(prompts), "answers") as bar:
            answers = ask(model, encoded, self.settings.prompt_tokens, [], _window(model, self.settings), bar)
        rows = [
            {"question": one.prompt, "language": language_of(one.prompt), **_row(answer)}
            for one, answer in zip(prompts, answers, strict=True)
        ]
        return side_by_side(prompts, answers, form), rows

    def _held_out(self, model: Model) -> list[Asked]:
        if not self.settings.held_out_prompts:
            return []
        sets = self._sets()
        for token_set in sets:
            require_tokenizer(token_set, model)
        return held_out_prompts(sets, self.settings.held_out_prompts, model.tokenizer)

    def _sets(self) -> list[TokenSet]:
        return _sets_of(self.settings, "conversation") if self.settings.held_out_prompts else []


@dataclass(frozen=True)
class Preferences(Task):
    rewards = True

    def inputs(self) -> Any:
        return [[one.fingerprint for one in self._sets()], self.settings.max_documents, self.settings.window]

    def run(self, model: Model, form: Form, title: str) -> tuple[dict[str, Any], Rows]:
        sets, most = self._sets(), self.settings.max_documents
        with progress(title, sum(min(len(each), most or len(each)) for each in sets), "pairs") as bar:
            return preference(model, sets, most, _window(model, self.settings), bar)

    def _sets(self) -> list[TokenSet]:
        return _sets_of(self.settings, "pair")


@dataclass(frozen=True)
class MultipleChoice(Task):
    choice_set: ChoiceSet

    def inputs(self) -> Any:
        names = [name for name in (self.choice_set.test, self.choice_set.dev) if name]
        hashes = [file_hash(self.settings.choice_files / f"{name}.jsonl.zst") for name in names]
        return [hashes, self.settings.shots, self.settings.limit, self.settings.window]

    def run(self, model: Model, form: Form, title: str) -> tuple[dict[str, Any], Rows]:
        questions = read_set(self.choice_set, self.settings.choice_files, self.settings.limit)
        with progress(title, len(questions), "questions") as bar:
            return multiple_choice(
                model, self.choice_set, questions, self.settings.shots, _window(model, self.settings), bar
            )


def tasks(settings: EvaluateSettings) -> list[Task]:
    """The tasks that the settings ask for, the quickest first."""
    found: list[Task] = [SideBySide(settings, "side_by_side")] if settings.prompts or settings.held_out_prompts else []
    if settings.questions:
        found.append(ExactMatch(settings, "exact_match", settings.questions))
        if settings.sampled:
            found.append(ExactMatch(settings, SAMPLED, settings.questions, AS_IT_IS))
    if settings.references:
        found.append(Overlap(settings, "overlap", settings.references))
    if settings.held_out:
        found.append(Preferences(settings, "preference"))
        found.append(BitsPerByte(settings, "bits_per_byte"))
    return found + [MultipleChoice(settings, name, CHOICE_SETS[name]) for name in settings.multiple_choice]


def _sets_of(settings: EvaluateSettings, unit: Unit) -> list[TokenSet]:
    """What is held out in this unit, each set once, those without an example left out."""
    found = [one for path in settings.held_out.values() for one in token_sets(path)]
    return list({one.fingerprint: one for one in found if one.unit == unit and len(one)}.values())


def _window(model: Model, settings: EvaluateSettings) -> int:
    return min(model.engine.window, settings.window or model.engine.window)


def _asked(
    model: Model,
    questions: list[dict[str, Any]],
    form: Form,
    settings: EvaluateSettings,
    max_tokens: int,
    title: str,
    sampling: SamplingSettings = GREEDY,
) -> list[Answer]:
    prompts = [question_prompt(model, each["question"], each["language"], form) for each in questions]
    with progress(title, len(prompts), "answers") as bar:
        stop = [] if form == "chat" else ["\n"]
        return ask(model, prompts, max_tokens, stop, _window(model, settings), bar, sampling)


def _row(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "tokens": list(answer.tokens), "ended": answer.ended}
