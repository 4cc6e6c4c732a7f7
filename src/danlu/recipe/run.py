"""Runs a recipe, tells what each stage did, and ends with what was learned and where to look."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from danlu.config import check
from danlu.evaluate.settings import EvaluateSettings
from danlu.ledger.errors import UserError
from danlu.ledger.files import sole_user
from danlu.ledger.manifest import name_run
from danlu.ledger.progress import duration
from danlu.recipe import stages
from danlu.recipe.build import build_stages
from danlu.recipe.graph import Outcome, Stage, notices, run_stages, state, with_needs
from danlu.recipe.memory import require_room
from danlu.recipe.rows import rows_read
from danlu.recipe.settings import Recipe
from danlu.recipe.starts import unfit
from danlu.recipe.summary import print_summary

MARKS = {"unchanged": "·", "finished": "✓", "continued": "✓", "restored": "↺"}
WORDS = {
    "en": {
        "stage": "{mark} {stage}: {state}",
        "unchanged": "unchanged",
        "finished": "finished",
        "continued": "continued",
        "restored": "restored",
        "without sources": "; the files that it was made from are not here",
        "took": " in {time}",
        "parked": "; results of other settings kept in {folder}",
        "nothing": "nothing to do: every stage is up to date",
    },
    "zh": {
        "stage": "{mark} {stage}：{state}",
        "unchanged": "没有变化",
        "finished": "完成",
        "continued": "接着做完",
        "restored": "已恢复",
        "without sources": "；制作它的文件不在这里",
        "took": "，用时 {time}",
        "parked": "；其他设置的结果留在 {folder}",
        "nothing": "没有要做的：每个阶段都是最新的",
    },
}


def run_recipe(recipe: Recipe, until: str | None = None) -> list[Outcome]:
    """Brings the recipe's stages up to date; with `until` only that stage ("pack": all packing) and what it needs.

    Raises UserError for a stage that the recipe does not have.
    """
    console = Console(highlight=False)
    wanted = _wanted(build_stages(recipe), until)
    _require_fit(recipe, wanted)
    with sole_user(recipe.out):
        for notice in notices(wanted, recipe.language):
            console.print(notice, markup=False, soft_wrap=True)
        renamed, outcomes = name_run(recipe.out, recipe.name), []
        for outcome in run_stages(wanted):
            console.print(_line(outcome, recipe.language), markup=False, soft_wrap=True)
            outcomes.append(outcome)
        changed = any(outcome.state != "unchanged" for outcome in outcomes)
        if not changed:
            console.print(WORDS[recipe.language]["nothing"])
        page = recipe.out / "report" / "index.html"
        if until is None and (changed or renamed or not page.is_file()):
            stages.report([recipe.out], recipe.out / "report", recipe.language)
    if until is None:
        print_summary(recipe, page, console)
    return outcomes


def evaluate_models(recipe: Recipe, models: list[Path]) -> None:
    """Measures any model folders by the recipe's `evaluate` section; results go beside the recipe's own."""
    *_, stage = _wanted(build_stages(recipe), "evaluate")
    settings = check(EvaluateSettings, stage.settings)
    stages.evaluate(settings, {str(model): model for model in models}, recipe.out / "evaluate-other")


def _require_fit(recipe: Recipe, wanted: list[Stage]) -> None:
    """Raises UserError now, and not hours later, where a stage that is to be trained cannot be."""
    due = [stage.name for stage in wanted if stage.name in recipe.training() and state(stage, wanted) != "unchanged"]
    if problem := next(unfit(recipe, due), None):
        raise problem
    for name in due:
        require_room(recipe, name)


def _wanted(all_stages: list[Stage], until: str | None) -> list[Stage]:
    if until is None:
        return all_stages
    ends = [stage for stage in all_stages if stage.name == until or stage.name.startswith(f"{until}/")]
    if not ends:
        known = ", ".join(stage.name for stage in all_stages)
        raise UserError(f"this recipe has no stage `{until}`", do=f"it has {known}: add a section, or run one of these")
    needed = {stage.name for end in ends for stage in with_needs(end)}
    return [stage for stage in all_stages if stage.name in needed]


def _line(outcome: Outcome, language: Literal["en", "zh"]) -> str:
    words, stage = WORDS[language], outcome.stage
    text = words["stage"].format(mark=MARKS[outcome.state], stage=stage.name, state=words[outcome.state])
    if outcome.state == "unchanged" and stage.without_sources():
        text += words["without sources"]
    if outcome.seconds:
        text += words["took"].format(time=duration(outcome.seconds))
    if outcome.parked:
        text += words["parked"].format(folder=outcome.parked)
    ran = outcome.state in ("finished", "continued")
    return "\n".join([text, *(rows_read(stage.folder, language) if ran else ())])
