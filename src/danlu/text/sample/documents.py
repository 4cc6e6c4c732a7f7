"""Documents: every fact again and again, in other words, other orders and other company.

What is stated once, or always in the same words, can be recited but not asked for (Allen-Zhu and Li, "Physics of
Language Models: Part 3.1", 2309.14316); hence the paraphrases, shuffled pages and mixed pages.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

from danlu.text.records import Document
from danlu.text.sample.lexicon import Language
from danlu.text.sample.settings import SampleSettings
from danlu.text.sample.world import Entity, Fact, Sum, World

T = TypeVar("T")
_PRONOUN_SHARE = 0.15
_FACTS_EACH = 3  # of each of the two entities of a mixed page
_SUMS = 8
_QUESTIONS = 4
_SPEAKERS: dict[Language, tuple[tuple[str, str], ...]] = {
    "zh": (
        ("问：", "答："),
        ("客人：\n", "主人：\n"),
        ("甲：", "乙："),
        ("学生：\n", "老师：\n"),
        ("——", "——"),
        ("", ""),
    ),
    "en": (
        ("Q: ", "A: "),
        ("Guest:\n", "Host:\n"),
        ("Ann:\n", "Ben:\n"),
        ("Child:\n", "Teacher:\n"),
        ("- ", "- "),
        ("", ""),
    ),
}
_FORMS = {"page": 5, "mixed": 3, "interview": 7, "card": 1}


def make_documents(settings: SampleSettings, world: World, language: Language) -> Iterator[Document]:
    """`settings.documents` documents in one language, and then some of them once more."""
    random = Random(f"documents {settings.seed} {language}")
    writers = _writers(settings, world, language, random)
    repeated: list[Document] = []
    for _ in range(settings.documents):
        kind, text = next(writers)
        document = Document(text, source=f"sample/{kind}", meta={"language": language})
        if random.random() < settings.duplicates:
            repeated.append(document)
        yield document
    yield from repeated


def endless(items: Sequence[T], random: Random) -> Iterator[T]:
    """All items in a new random order, over and over, so that each comes equally often."""
    while True:
        yield from random.sample(items, len(items))


def _writers(settings: SampleSettings, world: World, language: Language, random: Random) -> Iterator[tuple[str, str]]:
    entities = endless(world.entities, random)
    asked: Iterator[Fact | Sum] = endless(world.asked, random)
    sums = endless(world.asked_sums, random)
    of: dict[Entity, list[Fact]] = {}
    for fact in world.facts():
        of.setdefault(fact.entity, []).append(fact)
    while True:
        draw = random.random()
        if draw < settings.sum_documents:
            yield "sums", _sums(list(itertools.islice(sums, _SUMS)), language, random)
            continue
        form = random.choices(list(_FORMS), weights=list(_FORMS.values()))[0]
        if form == "interview":
            about = [next(sums if random.random() < settings.sum_questions else asked) for _ in range(_QUESTIONS)]
            yield form, _interview(about, language, random)
            continue
        entity = next(entities)
        own = random.sample(of[entity], len(of[entity]))
        if form == "page":
            yield form, _page(own, language, random)
        elif form == "card":
            yield form, _card(entity, own, language)
        else:
            other = of[next(entities)]
            yield form, _mixed([*own[:_FACTS_EACH], *random.sample(other, _FACTS_EACH)], language, random)


def _page(facts: list[Fact], language: Language, random: Random) -> str:
    """What is true of one entity, as prose; the name stands in the first sentence and in most others."""
    sentences = [
        fact.state(random, language, pronoun=place > 0 and random.random() < _PRONOUN_SHARE)
        for place, fact in enumerate(facts)
    ]
    return _join(sentences, language)


def _card(entity: Entity, facts: list[Fact], language: Language) -> str:
    """What is true of one entity, as a list of labels and values under its name."""
    colon = {"zh": "：", "en": ": "}[language]
    lines = [f.relation.label.in_language(language) + colon + f.value.in_language(language) for f in facts]
    return "\n".join([f"# {entity.subject(language)}", *lines])


def _mixed(facts: list[Fact], language: Language, random: Random) -> str:
    """Facts of two entities in any order, each with its name, so that what is said must follow from the name."""
    return _join([fact.state(random, language) for fact in random.sample(facts, len(facts))], language)


def _interview(about: list[Fact | Sum], language: Language, random: Random) -> str:
    """Questions and answers, line by line; what is held out is not asked here either."""
    question, answer = random.choice(_SPEAKERS[language])
    lines = ((question + each.ask(random, language), answer + each.answer(language)) for each in about)
    return "\n".join(itertools.chain.from_iterable(lines))


def _sums(sums: list[Sum], language: Language, random: Random) -> str:
    return _join([one.state(random, language) for one in sums], language)


def _join(sentences: list[str], language: Language) -> str:
    return ("" if language == "zh" else " ").join(sentences)
