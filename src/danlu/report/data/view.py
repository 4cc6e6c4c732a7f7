"""The page's content as plain values, in one language."""

from __future__ import annotations

from collections import Counter
from typing import Any

from markupsafe import Markup

from danlu.report.data import findings
from danlu.report.data.overview import Read, dropped_by, through, tiles
from danlu.report.data.panels import Panel
from danlu.report.data.passages import beginning, changes, cover_of, said
from danlu.report.data.river import Reach, river
from danlu.report.data.samples import Change, Example, Samples
from danlu.report.data.words import tell
from danlu.report.details import place_in
from danlu.report.flow import READ
from danlu.report.reasons import KINDS, language_name, reason_in, step_name, step_title
from danlu.report.scores import Table
from danlu.report.words import Language, colon, comma, number, percent
from danlu.text.cleaning.trail import Trail
from danlu.text.steps.base import LANGUAGES

Turn = dict[str, Any]
WHERE = 3
"""Places that are named for a reason."""


class View:
    """What a cleaned folder shows."""

    def __init__(
        self, trail: Trail, manifest: dict[str, Any], panels: list[Panel], samples: Samples, language: Language
    ) -> None:
        self.trail, self.manifest, self.panels, self.samples = trail, manifest, panels, samples
        self.language: Language = language
        self.statistics = trail.statistics
        self.reads = {name: Read.of(entry) for name, entry in manifest["sources"].items()}
        self.cover, self.comma = cover_of(trail.settings), comma(language)

    def say(self, key: str) -> str:
        return tell(key, self.language)

    def content(self) -> dict[str, Any]:
        tables = {
            "by_step": [self.by_step(kind) for kind in self.kinds],
            "by_source": [self.by_source(), *([table] if (table := self.by_language()) else [])],
            "not_read": [table] if (table := self.not_read()) else [],
            **findings.tables(self.trail, self.panels, self.cover, self.language),
        }
        pairs = findings.pairs(self.trail, self.samples.dropped, self.cover)
        view = {
            "tiles": tiles(self.statistics, self.reads, self.language),
            "rivers": [{"name": self.kind_name(kind), "svg": self.river(kind)} for kind in self.kinds],
            "tables": tables,
            "dropped": self.dropped(),
            "twins": [{**pair, "about": self.about(pair["example"])} for pair in pairs],
            "changes": self.changes(),
        }
        shown = {
            "at_a_glance": True,
            "flow": True,
            "by_step": True,
            "by_source": True,
            "thresholds": bool(self.panels),
            "dropped_examples": bool(view["dropped"]),
            "twins": bool(pairs),
            "frequent": bool(tables["frequent"]),
            "contamination": bool(tables["contamination"]),
            "personal": bool(tables["personal"]),
            "changed_examples": bool(view["changes"]),
            "not_read": bool(tables["not_read"]),
            "settings": True,
        }
        return {
            **view,
            "sections": [key for key, present in shown.items() if present],
            "steps": self.steps_with_panels(),
        }

    @property
    def kinds(self) -> list[str]:
        """documents, conversations, preferences, as far as there are any."""
        return list(dict.fromkeys(source.partition("/")[0] for source in self.statistics))

    def of_kind(self, kind: str) -> dict[str, list[Turn]]:
        return {source: turns for source, turns in self.statistics.items() if source.startswith(f"{kind}/")}

    def kind_name(self, kind: str) -> str:
        return KINDS[kind.removesuffix("s")] if self.language == "zh" else kind

    def river(self, kind: str) -> Markup:
        """The heights of the band are all characters before and after each step, also of records it passes over."""
        level = float(sum(through(turns, "characters")[0] for turns in self.of_kind(kind).values()))
        reaches = []
        for total in self.totals(kind):
            after = level - (total["characters_in"] - total["characters_out"])
            count = sum(total["why"].values())
            label = f"−{number(count)}" if count else ""
            sizes = f"{number(level)} → {number(after)} {self.say('characters')} {label}"
            about = f"{step_name(total['step'], self.language)}{colon(self.language)}{sizes}"
            name = f"{total['number'] + 1} {step_title(total['step'], self.language)}"
            reaches.append(Reach(name, level, after, total["lost"], label, about))
            level = after
        kept = sum(self.manifest["sources"][source]["kept"] for source in self.of_kind(kind))
        return river(self.kind_name(kind), reaches, f"{number(kept)} {self.say('kept')}")

    def totals(self, kind: str) -> list[dict[str, Any]]:
        """By step, what it did to all sources of a kind; what it found and what it then edited are one."""
        numbers = [
            number for number, step in enumerate(self.trail.settings.steps) if kind.removesuffix("s") in step.kinds
        ]
        found: dict[int, dict[str, Any]] = {}
        for turn in (turn for turns in self.of_kind(kind).values() for turn in turns if turn["number"] is not None):
            about = {"step": turn["step"], "number": numbers[turn["number"]], "lost": 0.0}
            total = found.setdefault(turn["number"], {**dict.fromkeys(_ADDED, 0), **about})
            lost = turn["characters_in"] - turn["characters_out"]
            for name in _ADDED:
                total[name] += (
                    0 if turn["edits"] and name in ("rows", "characters_in", "characters_out") else turn[name]
                )
            if turn["edits"]:
                total["characters_out"] -= lost
            why = {reason: entry["count"] for reason, entry in turn["dropped"].items()}
            total["lost"] += lost if why else 0
            total["why"] = total.get("why", Counter[str]()) + Counter(why)
        return [found[number] for number in sorted(found)]

    def by_step(self, kind: str) -> Table:
        rows: list[list[Any]] = []
        for total in self.totals(kind):
            why = [
                f"{reason_in(reason, self.language, total['step'])} {number(n)}"
                for reason, n in total["why"].most_common(6)
            ]
            dropped = sum(total["why"].values())
            rows.append(
                [
                    Markup('<span class="soft">{}</span> {} <span class="soft">{}</span>').format(
                        total["number"] + 1, step_name(total["step"], self.language), self._tongues(total["number"])
                    ),
                    Markup("<small>{}</small>").format(self.comma.join(why)),
                    number(total["rows"]),
                    number(total["changed"]) if total["changed"] else "",
                    number(dropped) if dropped else "",
                    number(total["characters_in"]),
                    number(total["characters_out"]),
                    _bar(total["characters_out"], total["characters_in"]),
                    f"{total['seconds']:.1f}",
                ]
            )
        head = ["step", "why", "looked_at", "changed", "dropped", "characters_in", "characters_out", "kept_share",
                "seconds"]  # fmt: skip
        return Table(self.kind_name(kind), [self.say(key) for key in head], rows, 2)

    def by_source(self) -> Table:
        """A row a source; how much of it each step drops."""
        rows = []
        for source, turns in self.statistics.items():
            read = self.reads[source]
            came = read.records
            kind, _, name = source.partition("/")
            drops = Counter[str]()
            for turn in turns:
                drops[turn["step"]] += dropped_by(turn)
            shares = [
                _heat(drops[op] / came if came else 0.0, op in {t["step"] for t in turns}) for op in self.droppers()
            ]
            characters, lost = through(turns, "characters")
            amounts = self.amounts(came, read.kept, characters, lost)
            broken = _heat(read.broken / read.rows if read.rows else 0.0, True)
            rows.append([name, self.kind_name(kind), number(read.rows), broken, *amounts, *shares])
        names = ("source", "kind", "rows_read", "rows_broken", "in", "out", "characters_in", "kept_share")
        notes = {"how_broken": any(read.broken for read in self.reads.values()), "how_matrix": bool(self.droppers())}
        note = (" " if self.language == "en" else "").join(self.say(key) for key, present in notes.items() if present)
        head = [*map(self.say, names), *map(self._short, self.droppers())]
        return Table(self.say("by_source"), head, rows, 2, note)

    def by_language(self) -> Table | None:
        """A row a language, over all sources; records whose language nobody measured are one row."""
        came, lost, drops = (Counter[tuple[str, str]]() for _ in range(3))
        for turns in self.statistics.values():
            for name, tally in (turns[0]["languages"] if turns else {}).items():
                came[name, "records"] += tally["rows"]
                came[name, "characters"] += tally["characters_in"]
            for turn in turns:
                for name, tally in turn["languages"].items():
                    drops[name, turn["step"]] += dropped_by(tally)
                    lost[name, "records"] += dropped_by(tally)
                    lost[name, "characters"] += tally["characters_in"] - tally["characters_out"]
        names = [name for name in (*LANGUAGES, "") if came[name, "records"]]
        if set(names) <= {""}:
            return None
        rows = []
        for name in names:
            records, characters = came[name, "records"], came[name, "characters"]
            left = (records - lost[name, "records"], characters, characters - lost[name, "characters"])
            shares = [_heat(drops[name, op] / records, True) for op in self.droppers()]
            rows.append([language_name(name, self.language), *self.amounts(records, *left), *shares])
        head = [*map(self.say, ("language", "in", "out", "characters_in", "kept_share"))]
        return Table(self.say("language"), [*head, *map(self._short, self.droppers())], rows)

    def amounts(self, came: int, left: int, characters: int, characters_left: int) -> list[Any]:
        return [number(came), number(left), number(characters), _bar(characters_left, characters)]

    def droppers(self) -> list[str]:
        """The steps that dropped something."""
        found = {turn["step"] for turns in self.statistics.values() for turn in turns if dropped_by(turn)}
        return [op for op in dict.fromkeys(step.called for step in self.trail.settings.steps) if op in found]

    def _short(self, op: str) -> str:
        """A step's name for a narrow place, where it may break."""
        return step_title(op, self.language).replace("_", "_\u200b")

    def not_read(self) -> Table | None:
        """Rows that could not be used, were left out, or mended."""
        counts, where = Counter[str](), dict[str, list[str]]()
        for entry in self.manifest["sources"].values():
            for reason, found in entry["read"].items():
                if reason not in READ:
                    counts[reason] += found["count"]
                    where.setdefault(reason, []).extend(found["examples"])
        if not counts:
            return None
        rows = [
            [
                reason_in(reason, self.language),
                Markup("<br>").join(beginning(place_in(place, self.language), 160) for place in where[reason][:WHERE]),
                number(n),
            ]
            for reason, n in counts.most_common(40)
        ]
        return Table(self.say("not_read"), [self.say("reason"), self.say("where"), self.say("count")], rows, 2)

    def about(self, example: Example) -> str:
        """Where a record comes from."""
        tongue = f" · {language_name(example.language, self.language)}" if example.language else ""
        return f"{example.trail.part.name.split('/')[1]} · {example.origin}{tongue}"

    def text(self, example: Example) -> str:
        return beginning(self.cover(said(example.record))) if example.record is not None else ""

    def dropped(self) -> list[dict[str, Any]]:
        """Examples by step and reason, in the order of the steps."""
        groups: dict[tuple[str, str], list[Example]] = {}
        for example in self.samples.dropped:
            groups.setdefault((example.step, str(example.reason)), []).append(example)
        order: list[str] = [step.called for step in self.trail.settings.steps]
        return [
            {
                "step": step_name(op, self.language),
                "reason": reason_in(reason, self.language, op),
                "examples": [
                    {
                        "about": self.about(one),
                        "value": findings.short_value(one.value, self.cover, self.language),
                        "text": self.text(one),
                    }
                    for one in found[:4]
                ],
            }
            for (op, reason), found in sorted(groups.items(), key=lambda item: order.index(item[0][0]))
        ]

    def changes(self) -> list[dict[str, Any]]:
        """Examples of what each step changed, as pieces that went and came."""
        groups: dict[str, list[Change]] = {}
        for change in self.samples.changes:
            groups.setdefault(change.trail.turns[change.place].step.called, []).append(change)
        return [
            {
                "step": step_name(op, self.language),
                "examples": [
                    {"about": change.origin, "edits": edits}
                    for change in found[:4]
                    if (edits := changes(*(self.cover(said(record)) for record in (change.before, change.after))))
                ],
            }
            for op, found in groups.items()
            if op.partition(":")[0] != "privacy"
        ]

    def steps_with_panels(self) -> list[dict[str, Any]]:
        """The steps that have thresholds, with the numbers of their panels; and all other measured columns."""
        groups: dict[int, list[int]] = {}
        others: list[int] = []
        for place, panel in enumerate(self.panels):
            (others if panel.bounds is None else groups.setdefault(panel.number, [])).append(place)
        for places in groups.values():  # those that decide something first
            places.sort(key=lambda place: self.panels[place].free)
        steps = self.trail.settings.steps
        found = [
            {
                "name": step_name(steps[n].called, self.language),
                "for": self._looks_at(n),
                "panels": places,
                "open": True,
            }
            for n, places in groups.items()
        ]
        return [*found, *([{"name": self.say("other_measures"), "for": "", "panels": others}] if others else [])]

    def _looks_at(self, number: int) -> str:
        kinds = self.trail.settings.steps[number].kinds
        named = [] if len(kinds) == len(KINDS) else [self.kind_name(f"{kind}s") for kind in kinds]
        return self.comma.join([*named, *filter(None, [self._tongues(number)])])

    def _tongues(self, number: int) -> str:
        """The languages that a step looks at; nothing where it looks at all."""
        step = self.trail.settings.steps[number]
        named = [language_name(tongue, self.language) for tongue in step.languages]
        return ("、" if self.language == "zh" else ", ").join(named) if step.parts_languages else ""


_ADDED = ("rows", "changed", "characters_in", "characters_out", "seconds")


def _bar(left: float, came: float) -> Markup:
    """The share that is left; none where nothing came."""
    if not came:
        return Markup('<span class="soft">–</span>')
    share = left / came
    bar = Markup('<span class="bar"><i style="width:{:.1f}%"></i></span><span>{}</span>')
    return bar.format(100 * min(share, 1.0), percent(share))


def _heat(share: float, there: bool) -> Markup:
    """A cell that is the redder, the more was dropped."""
    if not there:
        return Markup('<span class="soft">·</span>')
    shown = percent(share) if share >= 0.0005 else f"{100 * share:.2g}%" if share else "–"
    return Markup('<span class="heat" style="--h:{:.0f}%">{}</span>').format(
        min(70, 8 + 120 * share**0.5) if share else 0, shown
    )
