"""`danlu clean preset` and `danlu clean selftest` in the terminal."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from danlu.ledger.errors import UserError
from danlu.recipe.data_juicer import flow
from danlu.text.presets import PRESETS, PresetName, preset_steps
from danlu.text.selftest.run import WANTED, Outcome, selftest, share_right

_LANGUAGES = {"zh": "Chinese", "en": "English"}


def print_preset(name: PresetName) -> None:
    """The steps as a recipe writes them."""
    print("steps:", *(f"  - {flow(step)}" for step in preset_steps(name)), sep="\n")


def print_selftest(names: list[str], seed: int) -> bool:
    """A table a preset: by language and category how many texts were dealt with rightly. False where too few were."""
    if unknown := set(names) - set(PRESETS):
        raise UserError(f"no preset {', '.join(sorted(unknown))}", do=f"choose of {', '.join(PRESETS)}")
    console, enough = Console(highlight=False), True
    for name in (preset for preset in PRESETS if preset in names or not names):
        outcomes = selftest(name, seed)
        console.print(_table(name, outcomes))
        for good, deed in ((True, "good kept"), (False, "bad dropped")):
            share = share_right(outcomes, good=good)
            enough &= share >= WANTED
            console.print(f"{'✓' if share >= WANTED else '✗'} {name}: {share:.1%} of the {deed}")
    return enough


def _table(name: str, outcomes: list[Outcome]) -> Table:
    table = Table(
        "language", "text", "category", "right", "dropped by", "first that went wrong", title=f"preset {name}"
    )
    groups: dict[tuple[str, bool, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        sample = outcome.sample
        groups[sample.language, sample.good, sample.category].append(outcome)
    for (language, good, category), found in groups.items():
        wrong = [outcome for outcome in found if not outcome.right]
        why = sorted({outcome.dropped.split(":")[0] for outcome in found if outcome.dropped})
        shown = f"{wrong[0].dropped or 'kept'}: {wrong[0].sample.text[:60]!r}" if wrong else ""
        right = f"{len(found) - len(wrong)}/{len(found)}"
        table.add_row(_LANGUAGES[language], "good" if good else "bad", category, right, ", ".join(why), escape(shown))
    return table
