"""What a run closes with: what was learned, and where to look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from danlu.ledger.checkpoints import list_checkpoints
from danlu.ledger.files import read_json
from danlu.recipe.settings import Recipe
from danlu.report.reasons import language_name
from danlu.report.words import Language, colon, comma, say, tag_label

WORDS = {
    "en": {
        "title": "What was learned",
        "model": "after",
        "bits": "bits per byte, held-out {name}",
        "exact": "exact match, {kind} ({language})",
        "loops": "loop rate",
        "ends": "ends by itself",
        "measured": "model",
        "results": "Results",
        "report": "Report",
        "chat": "Chat",
        "serve": "Serve",
    },
    "zh": {
        "title": "学到了什么",
        "model": "阶段之后",
        "bits": "每字节比特（留出：{name}）",
        "exact": "完全匹配，{kind}（{language}）",
        "loops": "复读率",
        "ends": "自行结束",
        "measured": "模型",
        "results": "结果",
        "report": "报告",
        "chat": "对话",
        "serve": "服务",
    },
}


def print_summary(recipe: Recipe, page: Path, console: Console) -> None:
    """Prints the scores after each training stage, the report's path and the commands that come next."""
    words = WORDS[recipe.language]
    results = recipe.out / "evaluate" / "results.json"
    if results.is_file():
        console.print(_table(recipe, results, words["model"], words["title"]))
    told = {"report": str(page)}
    trained = [name for name in recipe.training() if name != "reward" and list_checkpoints(recipe.out / name)]
    if trained:
        model = recipe.out / trained[-1]
        told |= {"chat": f"danlu chat {model}", "serve": f"danlu serve {model}"}
    for name, value in told.items():
        console.print(f"{words[name]}{colon(recipe.language)}{value}", markup=False, soft_wrap=True)


def print_results(recipe: Recipe, results: Path) -> None:
    """Prints the scores of an evaluation and the path of its results."""
    words, console = WORDS[recipe.language], Console(highlight=False)
    console.print(_table(recipe, results, words["measured"]))
    told = f"{words['results']}{colon(recipe.language)}{results}"
    console.print(told, markup=False, soft_wrap=True)


def _table(recipe: Recipe, results: Path, models: str, title: str | None = None) -> Table:
    """The headline numbers of each model that was measured; `models` is what their row is called."""
    scores: dict[str, dict[str, Any]] = read_json(results)
    by = {tag for section in recipe.training().values() for tag in section.train.by}
    columns = {model: _scores(tasks, recipe.language, by) for model, tasks in scores.items()}
    first = Column(models, overflow="fold")
    table = Table(first, *columns, title=title, title_justify="left")
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        table.add_row(name, *(column.get(name, "–") for column in columns.values()))
    return table


def _scores(tasks: dict[str, Any], language: Language, by: set[str]) -> dict[str, str]:
    """A model's headline numbers by name; `by` are the tags by which it was asked to tell losses."""
    found, words = {}, WORDS[language]
    for key, bits in tasks.get("bits_per_byte", {}).items():
        name = say(key, language)
        found[words["bits"].format(name=name)] = f"{bits['bits_per_byte']:.3f}"
        tags = {label: part for label, part in bits.get("tag", {}).items() if label.partition("=")[0] in by}
        found |= {
            words["bits"].format(name=name + comma(language) + tag_label(tag, language)): f"{of['bits_per_byte']:.3f}"
            for tag, of in tags.items()
        }
    for kind, tongues in tasks.get("exact_match", {}).get("kind", {}).items():
        for tongue, part in tongues.items():
            name = words["exact"].format(kind=say(kind, language), language=language_name(tongue, language))
            found[name] = f"{part['accuracy']:.1%} ± {part['stderr']:.1%}"
    for task, part in tasks.items():
        if "accuracy" in part and "chance" in part:
            found[task] = f"{part['accuracy']:.1%} ± {part['stderr']:.1%}"
    if "repetition" in tasks:
        found[words["loops"]] = f"{tasks['repetition']['loop_rate']:.1%}"
        found[words["ends"]] = f"{tasks['repetition']['ends']:.1%}"
    return found
