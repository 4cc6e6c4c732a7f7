"""One function a stage, from Python or from a recipe: settings and folders in, a filled folder out."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.counts import Counts
from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.manifest import write_manifest
from danlu.ledger.signals import Stop
from danlu.recipe.job import AGAIN, STOPPED, TrainingJob, run_job, write_job
from danlu.recipe.processes import run_together
from danlu.tokens.settings import StageName

if TYPE_CHECKING:
    from danlu.evaluate.settings import EvaluateSettings
    from danlu.text.sample.settings import SampleSettings
    from danlu.text.settings import CleanSettings
    from danlu.tokens.settings import DataSettings, TokenizerSettings


def sample(settings: SampleSettings, out: Path) -> None:
    """Writes the generated bilingual world: documents, conversations, preferences, questions."""
    from danlu.text.sample.write import sample as write

    write(settings, out)


def clean(
    settings: CleanSettings, out: Path, columns: Path | None = None, language: Literal["en", "zh"] = "en"
) -> None:
    """Cleans records and writes `out`/report.html; what is dropped keeps its reason and the value that dropped it.

    `columns` keeps what was measured beyond `out`, so that other settings find it.
    """
    from danlu.recipe.scorers import scorers_of
    from danlu.report.data.report import write_data_report
    from danlu.text.clean import clean as run

    run(settings, out, scorers_of(settings), columns)
    told = {"en": "data report: {page}", "zh": "数据报告：{page}"}[language]
    Console(highlight=False, soft_wrap=True).print(told.format(page=write_data_report(out, language)))


def tokenizer(settings: TokenizerSettings, out: Path) -> None:
    """Trains or loads a tokenizer and saves it in `out`, with the chat template that all later stages render with."""
    from danlu.tokens.encode import terminator_id
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer
    from danlu.tokens.train import train_tokenizer
    from danlu.tokens.training_text import TrainingText

    counts, learned = Counts(), None
    if settings.train is not None:
        learned = TrainingText(settings.train.sources, settings.train.max_bytes, counts)
        made = train_tokenizer(settings.train, learned, out)
    else:
        made = Tokenizer.load(Path(str(settings.path)))
    template = Template(made, settings.system, settings.template)
    ends = settings.terminator is not None or made.eos_id is not None
    concerns = template.concerns(terminator_id(made, settings.terminator) if ends else None)
    for concern in [*concerns, *([learned.note()] if learned and learned.note() else [])]:
        Console(stderr=True, highlight=False).print(concern, style="yellow")
    template.tokenizer.save(out)
    write_manifest(
        out,
        {
            "entries": made.vocab_size,
            "fingerprint": made.fingerprint,
            "template": template.fingerprint,
            "stops": [made.token(stop) for stop in template.stop_ids],
            "concerns": concerns,
            "learned_from": learned.summary() if learned else None,
            "counts": counts.as_dict(),
        },
    )


def pack(
    settings: DataSettings,
    stage: StageName,
    tokenizer: Path,
    out: Path,
    store: Path,
    epochs: float = 1,
    *,
    terminator: str | None = None,
) -> None:
    """Turns records into token sets in `store`, training and held-out, and says in `out` what training takes of each.

    `epochs` is how long it trains; `terminator` is the token that ends a document.
    """
    from danlu.tokens.pack import pack as run

    run(settings, tokenizer, stage, out, store=store, epochs=epochs, terminator=terminator)


def train(job: TrainingJob, out: Path, processes: int | None = None) -> None:
    """Trains one stage in `out`, in this process, or in several where there are several GPUs or `processes` says so.

    The job is written to `out`/job.json, from which other machines can take it up under torchrun.
    """
    import torch

    path = write_job(job, out)
    count = processes or max(1, torch.cuda.device_count())
    if count == 1:
        run_job(job, out)
        return
    command = [sys.executable, "-m", "danlu.recipe.job", str(path)]
    stop = Stop()
    while AGAIN in (codes := run_together(command, count, calm=(0, STOPPED), stop=stop)):
        Console(stderr=True, highlight=False).print("starting again with a smaller micro-batch, the same global batch")
    if any(code not in (0, STOPPED, -signal.SIGTERM) for code in codes):
        raise UserError(
            f"training on {count} processes ended with codes {codes}",
            where=str(path),
            do="what the processes said stands above; -9 is most often want of memory",
        )
    if any(codes):
        raise Stopped("stopped; the same command goes on from what was saved", stop.asked)


def evaluate(settings: EvaluateSettings, models: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Measures the models and writes `out`/results.json."""
    from danlu.evaluate.evaluate import evaluate as run

    return run(settings, {name: resolve_checkpoint(path) for name, path in models.items()}, out)


def report(runs: list[Path], out: Path, language: Literal["en", "zh"] = "en") -> Path:
    """Draws runs into one page and gives its path."""
    from danlu.report.report import report as write

    return write(runs, out, language)
