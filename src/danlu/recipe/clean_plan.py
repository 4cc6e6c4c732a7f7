"""`danlu clean --dry-run`: what cleaning would take and keep, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.progress import brief, duration
from danlu.recipe.build import build_stages
from danlu.recipe.scorers import scorers_of
from danlu.recipe.settings import Recipe
from danlu.text.cleaning.dry_run import Bill, dry_run
from danlu.text.settings import CleanSettings


def print_clean_plan(recipe: Recipe) -> None:
    """Cleans about a hundredth of the recipe's text and prints what the whole would take."""
    stage = next((stage for stage in build_stages(recipe) if stage.name == "clean"), None)
    if stage is None:
        raise UserError("this recipe cleans nothing", where=recipe.name, do="add a `clean:` section with sources")
    settings = check(CleanSettings, stage.settings)
    print_bill(dry_run(settings, scorers_of(settings)), Console(highlight=False))


def print_bill(bill: Bill, console: Console) -> None:
    """Two tables: each step, and the whole."""
    steps = Table("step", "rows", "dropped", "characters", "kept", "MB/s", "time")
    for column in steps.columns[1:]:
        column.justify = "right"
    for column in steps.columns:
        column.no_wrap = True
    for step in bill.steps:
        speed = bill.mb_per_second(step)
        steps.add_row(
            step.step,
            brief(step.rows),
            brief(step.dropped),
            brief(step.characters_in),
            f"{step.kept:.1%}",
            f"{speed:.3g}" if speed else "",
            duration(step.seconds),
        )
    console.print(steps)
    whole = Table("", "about", show_header=False)
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in bill.core_seconds.items() if seconds >= 1)
    folders = ", ".join(f"{name} {size:.0f}" for name, size in bill.disk_mb.items() if size >= 1)
    whole.add_row("read for this", f"{bill.share:.1%} of {bill.text_mb:.0f} MB of text, {brief(bill.rows)} records")
    whole.add_row("time", f"{duration(bill.seconds)} with {bill.workers} workers (cores: {stages or '0s'})")
    if bill.slowest.seconds:
        whole.add_row("slowest step", f"{bill.slowest.step}, {bill.mb_per_second(bill.slowest):.3g} MB/s on one core")
    whole.add_row("memory", f"{bill.memory_mb:.0f} MB, {bill.worker_mb:.0f} a worker")
    whole.add_row("disk", f"{sum(bill.disk_mb.values()):.0f} MB ({folders or 'next to nothing'})")
    whole.add_row("tasks", f"{bill.tasks} over {bill.parts} parts of the text")
    console.print(whole)
    console.print("MB/s and time: of one core. Duplicates: those within the sample; the whole has more.")
