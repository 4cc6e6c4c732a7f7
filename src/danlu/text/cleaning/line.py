"""The way of one kind of record through its steps: which columns are missing, what is gathered, what is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from danlu.ledger.files import fingerprint
from danlu.ledger.tasks import Task
from danlu.text.cleaning.columns import read_meta
from danlu.text.cleaning.decide import decide
from danlu.text.cleaning.gathering import Gathering
from danlu.text.cleaning.live import LivePart
from danlu.text.cleaning.measure import measure
from danlu.text.cleaning.parts import Languages, Part, Turn
from danlu.text.cleaning.scorers import Scorers
from danlu.text.ops.table import OPERATORS
from danlu.text.settings import Step
from danlu.text.steps.base import LANGUAGES, Kind
from danlu.text.steps.basic import LanguageStep

Run = Callable[[list[Task], str, Path | None], list[Any]]
"""(tasks, title, folder of their ledger, by default one by title)."""


@dataclass(slots=True)
class Progress:
    """How far one part has come."""

    part: Part
    turns: list[Turn] = field(default_factory=list)
    chain: str = ""
    """Hash of the part's content and of all changes so far: what the next step measures depends on it."""
    languages: Languages | None = None
    verdicts: list[str] = field(default_factory=list)
    """Files, one a decision."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Of the last decision."""


class Line:
    """The parts of one kind. Call `measure_tasks`, run them, then `finish`."""

    def __init__(
        self, kind: Kind, parts: list[Part], steps: list[Step], out: Path, run: Run, scorers: Scorers,
        digests: dict[str, str],
    ) -> None:  # fmt: skip
        self.kind, self.steps, self._out, self._run, self._scorers = kind, steps, out, run, scorers
        self._digests = digests
        self.parts = [Progress(part, chain=Path(part.records).stem) for part in parts]
        own = next((step for step in steps if isinstance(step, LanguageStep)), LanguageStep())
        self._shares = own.model_copy(update={"keep": list(LANGUAGES)})
        self._phases = _phases(steps)
        self.step_of: list[int | None] = []
        """By turn the number of its step in `steps`; None for a language that only other steps ask for."""
        self.findings: list[Path] = []
        """Folders of this call."""
        for number in self._phases[0]:
            self._enter(number)

    def measure_tasks(self) -> list[Task]:
        """For each part that lacks columns of the turns so far, the task that writes them."""
        tasks = []
        for progress in self.parts:
            part, turns = progress.part, progress.turns
            missing: dict[str, int] = {}
            for place, turn in enumerate(turns):
                if turn.columns and not Path(turn.columns).exists():
                    missing.setdefault(turn.columns, place)  # turns may share columns: a language is measured once
            files = [file for file in (part.records, *missing) if not Path(file).exists()]
            if files:
                arguments = {
                    "part": part,
                    "turns": list(turns),
                    "missing": list(missing.values()),
                    "with_records": part.records in files,
                }
                tasks.append(Task(f"measure {part.name}", measure, arguments, [], list(map(Path, files))))
        return tasks

    def finish(self) -> None:
        """Gathers and decides, phase by phase; before a new phase measures what an edit left."""
        decided = 0
        for phase, numbers in enumerate(self._phases):
            if phase:
                self._edit(self._phases[phase - 1][-1])
                for number in numbers:
                    self._enter(number)
                self._run(self.measure_tasks(), f"measure again {self.kind}s", None)
            for place in range(decided, len(self.step_of)):
                step = self.parts[0].turns[place].step
                if self.parts[0].turns[place].edits or not OPERATORS[step.op].gather:
                    continue
                self._decide(decided, place)
                decided = place
                self._gather(place)
            if phase < len(self._phases) - 1:
                self._decide(decided, len(self.step_of))
                decided = len(self.step_of)
        self._decide(decided, len(self.step_of))

    def _enter(self, number: int) -> None:
        """Gives a step its turn in every part."""
        step = self.steps[number]
        if (step.parts_languages or step.by_language) and self.parts[0].languages is None:
            self._add(None, self._shares)
        self._add(number, step)

    def _add(self, number: int | None, step: Step) -> None:
        operator = OPERATORS[step.op]
        for progress in self.parts:
            languages = progress.languages if step.parts_languages or step.by_language else None
            handed = self._scorers.get(step.op) if operator.score else None
            depends = [step.measuring(), operator.version, self._digest(step), handed, *_looks(step, languages)]
            scorer = step.scorer() or (handed and {**handed, "arguments": handed["arguments"] | step.scoring()})
            columns = ""
            if operator.change or operator.measure or operator.score:
                columns = self._column_file(progress, step.op, depends)
            if step.op == "language":
                progress.languages = progress.languages or Languages(columns, self._shares)
                columns = progress.languages.columns
            progress.turns.append(Turn(step, columns, languages=languages, scorer=scorer))
            if operator.change:
                progress.chain = fingerprint([progress.chain, Path(columns).name])
        self.step_of.append(number)

    def _edit(self, number: int) -> None:
        """Gives the turn of its edit to a step about which all was found."""
        step = self.steps[number]
        for progress in self.parts:
            gathered = progress.turns[-1]
            depends = [step.gathering(), gathered.operator.version, self._digest(step), progress.hashes["found"]]
            columns = self._column_file(progress, f"{step.op}-edit", depends)
            progress.turns.append(replace(gathered, columns=columns, edits=True))
            progress.chain = fingerprint([progress.chain, Path(columns).name])
        self.step_of.append(number)

    def _column_file(self, progress: Progress, name: str, depends: list[Any]) -> str:
        key = fingerprint([progress.chain, *depends])[:16]
        return str(Path(progress.part.records).with_name(f"{name}-{key}.parquet"))

    def _digest(self, step: Step) -> list[str]:
        return [self._digests[file] for file in step.files()]

    def _gather(self, place: int) -> None:
        step = self.parts[0].turns[place].step
        operator = OPERATORS[step.op]
        assert operator.gather is not None
        key = fingerprint(
            [
                step.gathering(),
                operator.version,
                self._digest(step),
                [(p.part.name, Path(p.turns[place].columns).name, p.hashes["alive"]) for p in self.parts],
                [_looks(step, progress.languages) for progress in self.parts],
            ]
        )[:16]
        folder = self._out / "findings" / f"{self.kind}s" / f"{step.op}-{key}"
        self.findings.append(folder)
        live = []
        for progress in self.parts:
            meta = read_meta(progress.part.records)
            live.append(
                LivePart(
                    progress.part.number, meta["rows"], meta["characters"], progress.part,
                    progress.turns[: place + 1], progress.verdicts[-1],
                )
            )  # fmt: skip

        def run(tasks: list[Task], title: str) -> list[Any]:
            # The folder's name says on what its files depend: not on where the parts' files stand, nor on thresholds.
            return self._run([replace(task, identity=key) for task in tasks], title, folder / "tasks")

        gathering = Gathering(live, folder, run)
        found = tuple(map(str, operator.gather(gathering, step)))
        for progress in self.parts:
            progress.turns[place] = replace(progress.turns[place], findings=found)

    def _decide(self, first: int, stop: int) -> None:
        tasks, outs = [], []
        for progress in self.parts:
            part = progress.part
            counted = [turn.columns for turn in progress.turns if turn.step.op == "tokens"]
            outs.append(self._out / "verdicts" / f"{part.name}-{len(progress.verdicts)}.parquet")
            arguments = {
                "part": part,
                "turns": progress.turns[:stop],
                "first": first,
                "languages": progress.languages,
                "tokens": counted[0] if counted else "",
                "before": progress.verdicts[-1] if progress.verdicts else "",
                "out": str(outs[-1]),
            }
            tasks.append(Task(f"decide {outs[-1].stem} {part.name}", decide, arguments, [], [outs[-1]]))
        for progress, out, hashes in zip(self.parts, outs, self._run(tasks, "decide", None), strict=True):
            progress.verdicts.append(str(out))
            progress.hashes = hashes


def _phases(steps: list[Step]) -> list[list[int]]:
    """The numbers of the steps, cut after each step that edits."""
    phases: list[list[int]] = [[]]
    for number, step in enumerate(steps):
        phases[-1].append(number)
        if OPERATORS[step.op].edit and step.edits():
            phases.append([])
    return phases


def _looks(step: Step, languages: Languages | None) -> list[Any]:
    """On what it depends which records a step looks at, where that is not all."""
    if languages is None or not step.parts_languages:
        return []
    return [sorted(step.languages), Path(languages.columns).name, languages.step.model_dump(exclude={"keep"})]
