"""Conversations, preference pairs and questions: the world asked about, with looping answers seeded in on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from danlu.text.records import Conversation, Message, Preference
from danlu.text.sample.documents import endless
from danlu.text.sample.lexicon import Language
from danlu.text.sample.settings import SampleSettings
from danlu.text.sample.world import Entity, Fact, Sum, World

_FOLLOW_UP_SHARE = 0.3
_SMALL_TALK_SHARE = 0.03
_SYSTEM: dict[Language, tuple[str, ...]] = {
    "zh": ("你是一个熟悉这个世界的助手。", "请用一句话回答。", "你是一位诚实的向导。"),
    "en": ("You are an assistant who knows this world.", "Answer in one sentence.", "You are an honest guide."),
}
_SMALL_TALK: dict[Language, tuple[tuple[str, str], ...]] = {
    "zh": (
        ("你是谁？", "我是一个小小的语言模型，只认识一个小小的世界。"),
        ("你好！", "你好！想知道什么，请问我吧。"),
        ("谢谢你！", "不客气！"),
    ),
    "en": (
        ("Who are you?", "I am a small language model that knows one small world."),
        ("Hello!", "Hello! Ask me whatever you would like to know."),
        ("Thank you!", "You are welcome!"),
    ),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, its answer, and what it was about (None for small talk)."""

    question: str
    answer: str
    about: Fact | Sum | None


class Asker:
    """Asks about every asked fact and sum equally often, sometimes about the one just spoken of, and never else."""

    def __init__(self, settings: SampleSettings, world: World, language: Language, random: Random) -> None:
        self._settings, self._language, self._random = settings, language, random
        self._facts, self._sums = endless(world.asked, random), endless(world.asked_sums, random)
        self._of: dict[Entity, list[Fact]] = {}
        for fact in world.asked:
            self._of.setdefault(fact.entity, []).append(fact)

    def system(self) -> list[Message]:
        """A system prompt for some conversations, nothing for the others."""
        if self._random.random() >= self._settings.system:
            return []
        return [Message(role="system", content=self._random.choice(_SYSTEM[self._language]))]

    def turns(self) -> list[Turn]:
        """The questions and right answers of one conversation."""
        turns: list[Turn] = []
        for _ in range(self._random.randint(1, self._settings.turns)):
            turns.append(self._turn([turn.about for turn in turns]))
        return turns

    def _turn(self, before: list[Fact | Sum | None]) -> Turn:
        """The next turn; no fact that was spoken of `before` comes again."""
        draw = self._random.random()
        if draw < _SMALL_TALK_SHARE:
            return Turn(*self._random.choice(_SMALL_TALK[self._language]), about=None)
        if draw < _SMALL_TALK_SHARE + self._settings.sum_questions:
            one = next(self._sums)
            return Turn(one.ask(self._random, self._language), one.answer(self._language), one)
        last = before[-1] if before else None
        others = [fact for fact in self._of[last.entity] if fact not in before] if isinstance(last, Fact) else []
        follow_up = bool(others) and self._random.random() < _FOLLOW_UP_SHARE
        fact = self._random.choice(others) if follow_up else next(fact for fact in self._facts if fact not in before)
        return Turn(fact.ask(self._random, self._language, pronoun=follow_up), fact.answer(self._language), fact)


def make_conversations(settings: SampleSettings, world: World, language: Language) -> Iterator[Conversation]:
    """`settings.conversations` conversations in one language; the longer one is, the likelier its last answer loops.

    With `settings.loops` for each turn, that share of all answers loops.
    """
    random = Random(f"conversations {settings.seed} {language}")
    asker = Asker(settings, world, language, random)
    for _ in range(settings.conversations):
        messages, turns = asker.system(), asker.turns()
        for turn in turns:
            messages += [_says("user", turn.question), _says("assistant", turn.answer)]
        loops = random.random() < settings.loops * len(turns)
        if loops:
            messages[-1] = _says("assistant", loop(turns[-1].answer, language, settings.loop_repeats))
        yield Conversation(messages, source="sample", meta={"language": language, "loops": loops})


def make_preferences(settings: SampleSettings, world: World, language: Language) -> Iterator[Preference]:
    """`settings.preferences` pairs in one language: the right answer against a loop or a wrong answer."""
    random = Random(f"preferences {settings.seed} {language}")
    asker = Asker(settings, world, language, random)
    for _ in range(settings.preferences):
        messages = asker.system()
        *history, last = asker.turns()
        for turn in history:
            messages += [_says("user", turn.question), _says("assistant", turn.answer)]
        wrong = last.about is not None and random.random() < settings.wrong
        if last.about is not None and wrong:
            rejected = world.wrong(random, last.about).answer(language)
        else:
            rejected = loop(last.answer, language, settings.loop_repeats)
        yield Preference(
            [*messages, _says("user", last.question)],
            [_says("assistant", last.answer)],
            [_says("assistant", rejected)],
            source="sample",
            meta={"language": language, "rejected": "wrong" if wrong else "loop"},
        )


def make_questions(settings: SampleSettings, world: World, language: Language, kind: str) -> Iterator[dict[str, Any]]:
    """The questions of one `kind` ("held_out" or "seen"), each fact and sum once, as rows for exact match.

    A row holds `id`, `question`, `answer` (all accepted strings), `kind` ("relation" or "sum") and `language`.
    """
    random = Random(f"questions {settings.seed} {language} {kind}")
    facts, sums = (world.held_out, world.held_out_sums) if kind == "held_out" else (world.asked, world.asked_sums)
    items: tuple[Fact | Sum, ...] = (*facts, *sums)
    for number, item in enumerate(items):
        yield {
            "id": f"{language}-{kind}-{number:04d}",
            "question": item.ask(random, language),
            "answer": item.accepted(language),
            "kind": "relation" if isinstance(item, Fact) else "sum",
            "language": language,
        }


def loop(answer: str, language: Language, repeats: int) -> str:
    """The answer, said `repeats` times over."""
    return {"zh": "", "en": " "}[language].join([answer] * repeats)


def _says(role: str, content: str) -> Message:
    return Message(role=role, content=content)
