"""`danlu clean --dry-run`: what cleaning would take and keep, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.progress import brief, duration
from danlu.recipe.build import build_stages
from danlu.recipe.plan_words import CLEANING
from danlu.recipe.scorers import scorers_of
from danlu.recipe.settings import Recipe
from danlu.text.cleaning.dry_run import Bill, StepBill, dry_run
from danlu.text.settings import CleanSettings


def print_clean_plan(recipe: Recipe) -> None:
    """Cleans about a hundredth of the recipe's text and prints what the whole would take."""
    stage = next((stage for stage in build_stages(recipe) if stage.name == "clean"), None)
    if stage is None:
        raise UserError("this recipe cleans nothing", where=recipe.name, do="add a `clean:` section with sources")
    settings = check(CleanSettings, stage.settings)
    print_bill(dry_run(settings, scorers_of(settings)), Console(highlight=False), CLEANING[recipe.language])


def print_bill(bill: Bill, console: Console, words: Mapping[str, str]) -> None:
    """Two tables: each step, and the whole."""
    console.print(_steps(bill, words))
    whole = Table("", "", show_header=False)
    for name, said in _whole(bill, words).items():
        whole.add_row(words[name], said)
    console.print(whole)
    console.print(words["how"])


def _steps(bill: Bill, words: Mapping[str, str]) -> Table:
    names = [words[name] for name in ("step", "rows", "dropped", "characters", "kept")]
    table = Table(*names, "MB/s", words["time"])
    for column in table.columns[1:]:
        column.justify = "right"
    for column in table.columns:
        column.no_wrap = True
    for step in bill.steps:
        speed = bill.mb_per_second(step)
        table.add_row(
            _name(step, words),
            brief(step.rows),
            brief(step.dropped),
            brief(step.characters_in),
            f"{step.kept:.1%}",
            f"{speed:.3g}" if speed else "",
            duration(step.seconds),
        )
    return table


def _name(step: StepBill, words: Mapping[str, str]) -> str:
    return words["edit"].format(step=step.step) if step.edits else step.step


def _whole(bill: Bill, words: Mapping[str, str]) -> dict[str, str]:
    comma = words["comma"]
    stages = comma.join(f"{name} {duration(seconds)}" for name, seconds in bill.core_seconds.items() if seconds >= 1)
    folders = comma.join(f"{name} {size:.0f}" for name, size in bill.disk_mb.items() if size >= 1)
    slowest, speed = bill.slowest, bill.mb_per_second(bill.slowest)
    found = {
        "read": words["of text"].format(share=bill.share, megabytes=bill.text_mb, rows=brief(bill.rows)),
        "time": words["in all"].format(time=duration(bill.seconds), workers=bill.workers, stages=stages or "0s"),
        "slowest": words["speed"].format(step=_name(slowest, words), speed=speed or 0),
        "memory": words["each"].format(all=bill.memory_mb, each=bill.worker_mb),
        "disk": words["folders"].format(all=sum(bill.disk_mb.values()), folders=folders or words["nothing"]),
        "tasks": words["parts"].format(tasks=bill.tasks, parts=bill.parts),
    }
    return found if speed else {name: said for name, said in found.items() if name != "slowest"}
