"""`danlu doctor`: proves on a user's own recipe what no loss curve shows, and tries the heaviest batch of its shape."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.ledger.progress import duration, memory_size
from danlu.recipe.advice import advice
from danlu.recipe.build import build_stages
from danlu.recipe.doctor_words import WORDS, check_name
from danlu.recipe.graph import notices
from danlu.recipe.job import TrainingJob, training_stream
from danlu.recipe.memory import gpu_here, planned, print_memory, trained_shape
from danlu.recipe.missing import missing
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.recipe.starts import unfit


def plan_for(recipe: Recipe, gigabytes: float) -> bool:
    """Prints what every training stage takes on a GPU of so many GiB, and comments on settings, both without data;
    says whether all of them fit."""
    console, gpu = Console(highlight=False), int(gigabytes * 2**30)
    print_memory(recipe, gpu, console)
    _comment(recipe, {}, console)
    return all(planned(recipe, name, gpu).fits for name in recipe.training())


def examine(recipe: Recipe) -> bool:
    """Says what is missing; packs the recipe's data, then checks every training stage. Prints it all and says whether
    nothing is missing and all checks passed."""
    console = Console(highlight=False)
    if lacking := [*missing(recipe), *unfit(recipe, recipe.training())]:
        for problem in lacking:
            console.print(f"✗ {problem}", markup=False, soft_wrap=True)
        return False
    if not recipe.training():
        console.print(WORDS[recipe.language]["no training"])
        return True
    print_memory(recipe, gpu_here(), console)
    run_recipe(recipe, until="pack")
    for notice in notices(build_stages(recipe), recipe.language):
        console.print(f"○ {notice}", markup=False, soft_wrap=True)
    jobs = [check(TrainingJob, stage.settings) for stage in build_stages(recipe) if stage.name in recipe.training()]
    _comment(recipe, {job.stage: training_stream(job).epoch for job in jobs}, console)
    passed = [_examine(job, recipe, console) for job in jobs]
    return all(passed)


def _comment(recipe: Recipe, examples: dict[str, int], console: Console) -> None:
    for one in advice(recipe, examples):
        console.print(f"○ {one.said(recipe.language)}", soft_wrap=True)


def _examine(job: TrainingJob, recipe: Recipe, console: Console) -> bool:
    import torch

    from danlu.train.heaviest import heaviest, lacking_memory, random_decoder
    from danlu.train.invariances import run_invariances
    from danlu.train.objectives.table import objective_of

    words, shape = WORDS[recipe.language], trained_shape(recipe, job.stage)
    stream, objective = training_stream(job), objective_of(job.train)
    checks = run_invariances(shape, objective, stream, job.train.precision)
    table = Table(words["check"], words["apart"], words["limit"], "", title=words["checks"].format(stage=job.stage))
    for one in checks:
        mark = "✓" if one.passed else f"✗ {words['failed']}"
        table.add_row(check_name(one.name, recipe.language), f"{one.measured:.1e}", f"{one.limit:.1e}", mark)
    console.print(table)
    if lacking := lacking_memory(job.train, shape, stream):
        needed, free = (size / 2**30 for size in lacking)
        console.print(words["not tried"].format(stage=job.stage, needed=needed, free=free))
        return all(one.passed for one in checks)
    try:
        load = heaviest(job.train, objective, random_decoder(job.train, shape, job.seed), stream)
    except (torch.OutOfMemoryError, UserError) as error:
        told = error.what if isinstance(error, UserError) else words["weights too large"]
        console.print(words["does not fit"].format(stage=job.stage, told=told))
        return False
    packed = read_manifest(job.packed) or {}
    seconds = sum(of["seen"] for of in packed.get("mix", {}).values()) / load.tokens_per_second
    console.print(
        words["heaviest"].format(
            stage=job.stage,
            rows=load.rows,
            length=stream.length,
            peak=memory_size(load.peak_bytes),
            expected=words["expected"].format(size=memory_size(load.expected_bytes)) if load.expected_bytes else "",
            speed=load.tokens_per_second,
            time=duration(seconds),
        )
    )
    return all(one.passed for one in checks)
