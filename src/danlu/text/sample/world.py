"""The world: who and what there is, what is true of each, and which questions are never asked."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from random import Random

from danlu.text.sample import lexicon
from danlu.text.sample.lexicon import Language, Word
from danlu.text.sample.relations import RELATIONS, Kind, Relation
from danlu.text.sample.settings import SampleSettings

_PRONOUNS: dict[str, dict[Language, tuple[str, str]]] = {
    "woman": {"zh": ("她", "她的"), "en": ("she", "her")},
    "man": {"zh": ("他", "他的"), "en": ("he", "his")},
    "thing": {"zh": ("它", "它的"), "en": ("it", "its")},
}
_MOST_VALUES = 12  # of a relation: rarer values would fall to pieces in a small tokenizer
_VALUES: dict[str, tuple[Word, ...]] = {
    "job": lexicon.JOBS,
    "dish": lexicon.DISHES,
    "pet": lexicon.PETS,
    "hobby": lexicon.HOBBIES,
    "product": lexicon.PRODUCTS,
    "sight": lexicon.SIGHTS,
    "fair": lexicon.MONTHS,
    "material": lexicon.MATERIALS,
    "colour": lexicon.COLOURS,
    "room": lexicon.ROOMS,
}


@dataclass(frozen=True, slots=True)
class Entity:
    """A person, a place or an object."""

    kind: Kind
    name: Word
    pronoun: str = "thing"

    def subject(self, language: Language) -> str:
        return self.name.in_language(language)

    def owner(self, language: Language) -> str:
        return self.subject(language) + ("的" if language == "zh" else "'s")


@dataclass(frozen=True, slots=True)
class Fact:
    """A relation of an entity, and its value."""

    entity: Entity
    relation: Relation
    value: Word

    def answer(self, language: Language) -> str:
        """The one sentence that answers every question about this fact."""
        return self._say(self.relation.statements(language)[0], language, pronoun=False)

    def accepted(self, language: Language) -> list[str]:
        """What counts as a right answer: the sentence, or the bare value."""
        return [self.answer(language), self.value.in_language(language)]

    def state(self, random: Random, language: Language, *, pronoun: bool = False) -> str:
        """The fact as a sentence, in one of its phrasings."""
        return self._say(random.choice(self.relation.statements(language)), language, pronoun=pronoun)

    def ask(self, random: Random, language: Language, *, pronoun: bool = False) -> str:
        """A question whose answer is this fact, in one of its phrasings."""
        return self._say(random.choice(self.relation.questions(language)), language, pronoun=pronoun)

    def _say(self, phrase: str, language: Language, *, pronoun: bool) -> str:
        entity = self.entity
        subject, owner = entity.subject(language), entity.owner(language)
        if pronoun:
            subject, owner = _PRONOUNS[entity.pronoun][language]
        return _sentence(phrase.format(s=subject, p=owner, v=self.value.in_language(language)))


@dataclass(frozen=True, slots=True)
class Sum:
    """An addition of two numbers."""

    left: int
    right: int
    total: int

    def answer(self, language: Language) -> str:
        return self._say(_SUM_STATEMENTS[language][0])

    def accepted(self, language: Language) -> list[str]:
        return [self.answer(language), str(self.total)]

    def state(self, random: Random, language: Language) -> str:
        return self._say(random.choice(_SUM_STATEMENTS[language]))

    def ask(self, random: Random, language: Language) -> str:
        return self._say(random.choice(_SUM_QUESTIONS[language]))

    def _say(self, phrase: str) -> str:
        return phrase.format(a=self.left, b=self.right, c=self.total)


_SUM_STATEMENTS: dict[Language, tuple[str, ...]] = {
    "zh": ("{a}加{b}等于{c}。", "{a}+{b}={c}。", "{a}与{b}的和是{c}。", "把{a}和{b}加起来，得到{c}。"),
    "en": ("{a} plus {b} is {c}.", "{a} + {b} = {c}.", "The sum of {a} and {b} is {c}.", "Add {a} and {b} to get {c}."),
}
_SUM_QUESTIONS: dict[Language, tuple[str, ...]] = {
    "zh": ("{a}加{b}等于多少？", "{a}+{b}是多少？", "请问{a}与{b}的和是多少？", "你能算出{a}加{b}吗？"),
    "en": (
        "What is {a} plus {b}?",
        "What is {a} + {b}?",
        "What is the sum of {a} and {b}?",
        "Can you add {a} and {b}?",
    ),
}


@dataclass(frozen=True, slots=True)
class World:
    """All facts and sums; held-out facts are stated but never asked, held-out sums are written only with their
    numbers the other way round."""

    entities: tuple[Entity, ...]
    asked: tuple[Fact, ...]
    held_out: tuple[Fact, ...]
    asked_sums: tuple[Sum, ...]
    held_out_sums: tuple[Sum, ...]

    def facts(self) -> tuple[Fact, ...]:
        return self.asked + self.held_out

    def wrong(self, random: Random, item: Fact | Sum) -> Fact | Sum:
        """The same question with another answer: a value that another entity has, or a total that is too large."""
        if isinstance(item, Sum):
            return replace(item, total=item.total + random.choice((1, 2, 10)))
        values = sorted({other.value for other in self.facts() if other.relation is item.relation} - {item.value})
        return replace(item, value=random.choice(values))


def make_world(settings: SampleSettings) -> World:
    """The world of a seed: names are dealt without repeats, values are drawn for each entity and relation."""
    random = Random(f"world {settings.seed}")
    people = _people(random, settings.people)
    places = [Entity("place", name) for name in random.sample(lexicon.PLACES, settings.places)]
    objects = [Entity("object", name) for name in random.sample(lexicon.OBJECTS, settings.objects)]
    values = {**_VALUES, "home": _names(places), "owner": _names(people)}
    entities = (*people, *places, *objects)
    asked: list[Fact] = []
    held_out: list[Fact] = []
    for relation in RELATIONS:
        facts = _facts(random, [entity for entity in entities if entity.kind == relation.kind], relation, values)
        count = max(1, round(len(facts) * settings.held_out))
        held_out += facts[:count]
        asked += facts[count:]
    asked_sums, held_out_sums = _sums(random, settings)
    return World(entities, tuple(asked), tuple(held_out), asked_sums, held_out_sums)


def _people(random: Random, count: int) -> list[Entity]:
    """People, women and men in turn; no two share a family name or a given name."""
    women, men = random.sample(lexicon.WOMEN, len(lexicon.WOMEN)), random.sample(lexicon.MEN, len(lexicon.MEN))
    given = list(itertools.chain.from_iterable(zip(women, men, strict=True)))[:count]
    return [
        Entity("person", Word(family.zh + name.zh, f"{family.en} {name.en}"), pronoun)
        for name, family, pronoun in zip(
            given, random.sample(lexicon.SURNAMES, count), itertools.cycle(("woman", "man")), strict=False
        )
    ]


def _names(entities: list[Entity]) -> tuple[Word, ...]:
    return tuple(entity.name for entity in entities)


def _facts(
    random: Random, entities: list[Entity], relation: Relation, values: dict[str, tuple[Word, ...]]
) -> list[Fact]:
    """One fact for each entity in random order; every value is used about equally often, by two entities or more."""
    pool = random.sample(values[relation.name], min(len(values[relation.name]), _MOST_VALUES, len(entities) // 2))
    dealt = [value for _ in range(0, len(entities), len(pool)) for value in random.sample(pool, len(pool))]
    facts = [Fact(entity, relation, value) for entity, value in zip(entities, dealt, strict=False)]
    random.shuffle(facts)
    return facts


def _sums(random: Random, settings: SampleSettings) -> tuple[tuple[Sum, ...], tuple[Sum, ...]]:
    """Sums to write and sums to hold out; where a + b is held out, b + a is written."""
    numbers = range(settings.largest_addend + 1)
    pairs = random.sample(list(itertools.combinations(numbers, 2)), len(numbers) * (len(numbers) - 1) // 2)
    count = max(1, round(len(pairs) * settings.held_out_sums))
    held_out = [random.choice((pair, pair[::-1])) for pair in pairs[:count]]
    written = [pair for pair in itertools.product(numbers, repeat=2) if pair not in held_out]
    return tuple(Sum(a, b, a + b) for a, b in written), tuple(Sum(a, b, a + b) for a, b in held_out)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
