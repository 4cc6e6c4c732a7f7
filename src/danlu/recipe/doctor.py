"""`danlu doctor`: proves on a user's own recipe what no loss curve shows, and tries the heaviest batch of its shape."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.ledger.progress import duration
from danlu.recipe.advice import advice
from danlu.recipe.build import build_stages
from danlu.recipe.job import TrainingJob, training_stream
from danlu.recipe.memory import gpu_here, planned, print_memory, trained_shape
from danlu.recipe.missing import missing
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.recipe.starts import unfit


def plan_for(recipe: Recipe, gigabytes: float) -> bool:
    """Prints what every training stage takes on a GPU of so many GiB, without data; says whether all of them fit."""
    console, gpu = Console(highlight=False), int(gigabytes * 2**30)
    print_memory(recipe, gpu, console)
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
        console.print("nothing is missing; this recipe trains nothing, so there is nothing more to check")
        return True
    print_memory(recipe, gpu_here(), console)
    run_recipe(recipe, until="pack")
    jobs = [check(TrainingJob, stage.settings) for stage in build_stages(recipe) if stage.name in recipe.training()]
    for one in advice(recipe, {job.stage: _examples(job) for job in jobs}):
        console.print(f"○ {one.said(recipe.language)}")
    passed = [_examine(job, recipe, console) for job in jobs]
    return all(passed)


def _examine(job: TrainingJob, recipe: Recipe, console: Console) -> bool:
    import torch

    from danlu.train.heaviest import heaviest, lacking_memory, random_decoder
    from danlu.train.invariances import run_invariances
    from danlu.train.objectives.table import objective_of

    shape = trained_shape(recipe, job.stage)
    stream, objective = training_stream(job), objective_of(job.train)
    checks = run_invariances(shape, objective, stream)
    table = Table("what must change nothing", "apart by", "limit", "", title=f"{job.stage}: 2 layers, your texts")
    for one in checks:
        table.add_row(one.name, f"{one.measured:.1e}", f"{one.limit:.1e}", "✓" if one.passed else "✗ FAILED")
    console.print(table)
    if lacking := lacking_memory(job.train, shape, stream):
        console.print(
            f"{job.stage}: the heaviest batch was not tried: it {lacking}. Run doctor on the machine that will train, "
            f"or set {job.stage}.train.rows lower"
        )
        return all(one.passed for one in checks)
    try:
        load = heaviest(job.train, objective, random_decoder(job.train, shape, job.seed), stream)
    except (torch.OutOfMemoryError, UserError) as error:
        told = error.what if isinstance(error, UserError) else "its weights do not fit"
        console.print(
            f"✗ {job.stage}: {told}: set {job.stage}.train.recompute=true, {job.stage}.data.length lower, or another "
            f"{job.stage}.train.tune"
        )
        return False
    packed = read_manifest(job.packed) or {}
    seconds = sum(of["seen"] for of in packed.get("mix", {}).values()) / load.tokens_per_second
    console.print(
        f"{job.stage}, heaviest batch ({load.rows} × {stream.length} tokens, all in the loss): "
        f"{load.peak_bytes / 2**30:.2f} GiB at the peak"
        + (f" ({load.expected_bytes / 2**30:.2f} expected)" if load.expected_bytes else "")
        + f", {load.tokens_per_second:,.0f} tokens/s; "
        f"at that rate the stage takes {duration(seconds)}"
    )
    return all(one.passed for one in checks)


def _examples(job: TrainingJob) -> int:
    """Examples of an epoch."""
    packed = read_manifest(job.packed) or {}
    return int(packed.get("train", {}).get("examples", 0))
