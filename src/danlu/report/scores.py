"""Scores as the page shows them: tables with errors and chance, the headline numbers, answers side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from danlu.report.preferences import HEAD, preference_rows
from danlu.report.words import Language, colon, comma, number, percent, say, tag_label

_BLANKS = re.compile(r"\A\s+\Z|\A\s{4,}|\s{24,}|\s{4,}\Z")
"""Of an answer: nothing but blanks, many at an end, or more than code is indented by."""
Scores = dict[str, dict[str, Any]]
"""evaluate's results: {model: {task: values}}."""
PREFERENCE = "preference"
BITS, EXACT, LOOPS, OVERLAP, SIDE = "bits_per_byte", "exact_match", "repetition", "overlap", "side_by_side"


@dataclass(frozen=True, slots=True)
class Table:
    """`names` leading columns hold words, the others numbers."""

    title: str
    head: list[Any]
    rows: list[list[Any]]
    names: int = 1
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number, or its way from stage to stage."""

    title: str
    values: list[str]
    note: str = ""
    wrong: bool = False


def tables(scores: Scores, language: Language) -> list[Table]:
    """All tables that the scores have something for."""
    makers = (_multiple_choice, _preference, _exact_match, _repetition, _bits, _overlap)
    return [table for make in makers if (table := make(scores, language)).rows]


def tiles(scores: Scores, language: Language) -> list[Tile]:
    """Bits per byte, exact match, loop rate and accuracy on pairs of every model in order."""
    found: list[Tile] = []
    for name in dict.fromkeys(name for tasks in scores.values() for name in tasks.get(BITS, {})):
        values = {model: tasks[BITS][name][BITS] for model, tasks in scores.items() if name in tasks.get(BITS, {})}
        found.append(
            _trail(
                comma(language).join(say(key, language) for key in ("bits_per_byte_held_out", name)),
                values,
                lambda v: f"{v:.3f}",
            )
        )
    shown = (
        (EXACT, "accuracy", "exact_match"),
        (LOOPS, "loop_rate", "loop_rate"),
        (PREFERENCE, "accuracy", "rewards_accuracy"),
    )
    for task, key, title in shown:
        values = {model: tasks[task][key] for model, tasks in scores.items() if task in tasks}
        if values:
            found.append(_trail(say(title, language), values, percent))
    return found


def answers(scores: Scores, language: Language) -> dict[str, Any] | None:
    """Prompts × models, with what the data answer where they do; None where none was asked."""
    asked = {model: tasks[SIDE] for model, tasks in scores.items() if SIDE in tasks}
    if not asked:
        return None
    prompts = {item["prompt"]: item for task in asked.values() for item in task["answers"]}
    by_prompt = {model: {item["prompt"]: item for item in task["answers"]} for model, task in asked.items()}
    return {
        "models": [{"name": model, "form": say(task["form"], language)} for model, task in asked.items()],
        "references": any("reference" in item for item in prompts.values()),
        "rows": [
            {
                "prompt": prompt,
                "source": item.get("source", ""),
                "reference": item.get("reference", "").strip(),
                "answers": [_answer(items.get(prompt), language) for items in by_prompt.values()],
            }
            for prompt, item in prompts.items()
        ],
    }


def _answer(item: dict[str, Any] | None, language: Language) -> dict[str, Any]:
    if item is None:
        return {"text": "–", "badges": []}
    badges = [("bad", say("loops", language))] if item["loops"] else []
    return {
        "text": _BLANKS.sub(_counted, item["answer"]).strip() or say("empty", language),
        "badges": badges if item["ended"] else [*badges, ("warn", say("cut", language))],
    }


def _counted(blanks: re.Match[str]) -> str:
    """A run of blanks, told by its signs and its length."""
    signs = dict.fromkeys("↵" if letter in "\r\n" else "⇥" if letter == "\t" else "␣" for letter in blanks.group())
    return f" {''.join(signs)} × {len(blanks.group())} "


def _trail(title: str, values: dict[str, float], show: Any) -> Tile:
    return Tile(title, [show(value) for value in values.values()], " → ".join(values))


def _multiple_choice(scores: Scores, language: Language) -> Table:
    head = [
        "task",
        "model",
        "accuracy",
        "chance",
        "",
        "macro",
        "accuracy_characters",
        "accuracy_bytes",
        "shots",
        "shots_dropped",
        "n",
    ]
    rows = []
    for task in dict.fromkeys(
        name for tasks in scores.values() for name, value in tasks.items() if "at_chance" in value
    ):
        for model, values in _with(scores, task):
            flag = Markup('<span class="badge warn">{}</span>').format(say("at_chance", language))
            rows.append(
                [
                    task,
                    model,
                    _bar(values["accuracy"], values["stderr"], values["chance"]),
                    percent(values["chance"]),
                    flag if values["at_chance"] else "",
                    _with_error(values["macro"], values["macro_stderr"]) if "macro" in values else "",
                    _with_error(values["accuracy_characters"], values["accuracy_characters_stderr"])
                    if "accuracy_characters" in values
                    else "",
                    _with_error(values["accuracy_bytes"], values["accuracy_bytes_stderr"])
                    if "accuracy_bytes" in values
                    else "",
                    values["shots"],
                    values["shots_dropped"],
                    number(values["n"]),
                ]
            )
    return Table(say("multiple_choice", language), _head(head, language), rows, 2, say("how_errors", language))


def _preference(scores: Scores, language: Language) -> Table:
    rows = [row for model, task in _with(scores, PREFERENCE) for row in preference_rows(model, task, language)]
    return Table(say(PREFERENCE, language), _head(HEAD, language), rows, 2, say("how_preference", language))


def _exact_match(scores: Scores, language: Language) -> Table:
    """A column a model: the share right, with its error and its 95% interval."""
    models = _with(scores, EXACT)
    parts = dict.fromkeys(
        [("all", "all")]
        + [(kind, tongue) for _, task in models for kind, tongues in task["kind"].items() for tongue in tongues]
    )
    rows: list[list[Any]] = []
    for kind, tongue in parts if models else ():
        found = [task if kind == "all" else task["kind"].get(kind, {}).get(tongue) for _, task in models]
        cells = [_interval(part) if part else "" for part in found]
        n = next(part["n"] for part in found if part)
        rows.append([say(kind, language), say(tongue, language), number(n), *cells])
    head = [
        *_head(["kind", "language", "n"], language),
        *(Markup("{} <small>{}</small>").format(model, say(task["form"], language)) for model, task in models),
    ]
    return Table(say("exact_match", language), head, rows, 2, say("how_interval", language))


def _interval(part: dict[str, Any]) -> Markup:
    interval = Markup(" <small>{} – {}</small>").format(percent(part["low"]), percent(part["high"]))
    return _bar(part["accuracy"], part["stderr"]) + interval


def _repetition(scores: Scores, language: Language) -> Table:
    rows = []
    for model, task in _with(scores, LOOPS):
        for tongue, part in [("all", task), *task.get("language", {}).items()]:
            rows.append(
                [
                    model,
                    say(tongue, language),
                    _bar(part["loop_rate"], part["loop_rate_stderr"]),
                    _with_error(part["loop_rate_characters"], part["loop_rate_characters_stderr"]),
                    _with_error(part["ends"], part["ends_stderr"]),
                    f"{part['seq_rep_4']:.3f}",
                    f"{part['seq_rep_4_characters']:.3f}",
                    f"{part['mean_tokens']:.1f}",
                    number(part["n"]),
                ]
            )
    head = [
        "model",
        "language",
        "loop_rate_tokens",
        "loop_rate_characters",
        "ends",
        "seq_rep_4",
        "seq_rep_4_characters",
        "mean_tokens",
        "n",
    ]
    return Table(say("repetition", language), _head(head, language), rows, 2, say("how_loops", language))


def _bits(scores: Scores, language: Language) -> Table:
    """A column a model: bits per byte, and the perplexity of a token."""
    models = _with(scores, BITS)
    rows: list[list[Any]] = []
    for name in dict.fromkeys(name for _, task in models for name in task):
        whole = next(task[name] for _, task in models if name in task)
        groups = [()] + [("language", part) for part in whole["language"]]
        groups += [("source", part) for part in whole["source"]] if len(whole["source"]) > 1 else []
        groups += [("tag", part) for part in whole.get("tag", {})]
        for group in groups:
            found = [_inner(task.get(name, {}), group) for _, task in models]
            cells = [
                Markup("{} <small>ppl {}</small>").format(f"{part[BITS]:.4f}", number(part["perplexity"]))
                if part
                else ""
                for part in found
            ]
            one = next(part for part in found if part)
            sizes = [number(one[size]) for size in ("documents", "tokens", "bytes")]
            label = tag_label(group[1] if group else "all", language)
            rows.append([say(name, language), label, *sizes, *cells])
    head = [*_head(["set", "source", "documents", "tokens", "bytes"], language), *(model for model, _ in models)]
    return Table(say("bits_per_byte_held_out", language), head, rows, 2, say("how_bits", language))


def _inner(values: dict[str, Any], group: tuple[str, ...]) -> dict[str, Any]:
    for key in group:
        values = values.get(key, {})
    return values


def _overlap(scores: Scores, language: Language) -> Table:
    rows, signatures = [], []
    for model, task in _with(scores, OVERLAP):
        for tongue, part in task["language"].items():
            figures = [f"{part[name]:.2f}" for name in ("bleu", "rouge1", "rouge2", "rougeL")]
            rows.append([model, say(tongue, language), *figures, number(part["n"])])
            signatures.append(part["signature"])
    head = ["model", "language", "bleu", "rouge1", "rouge2", "rougeL", "n"]
    note = f"{say('signature', language)}{colon(language)}{' · '.join(dict.fromkeys(signatures))}"
    return Table(say("overlap", language), _head(head, language), rows, 2, note)


def _with(scores: Scores, task: str) -> list[tuple[str, dict[str, Any]]]:
    return [(model, tasks[task]) for model, tasks in scores.items() if task in tasks]


def _head(keys: Iterable[str], language: Language) -> list[str]:
    return [say(key, language) if key else "" for key in keys]


def _with_error(value: float, error: float) -> str:
    return f"{percent(value)} ± {100 * error:.1f}"


def _bar(value: float, error: float, chance: float | None = None) -> Markup:
    mark = Markup('<u style="left:{:.1f}%"></u>').format(100 * chance) if chance is not None else ""
    bar = Markup('<span class="bar"><i style="width:{:.1f}%"></i>{}</span>').format(100 * value, mark)
    return bar + Markup("<span>{}</span>").format(_with_error(value, error))
