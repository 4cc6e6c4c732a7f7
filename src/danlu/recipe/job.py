"""One training stage as a job that any number of processes can take up: `torchrun … -m danlu.recipe.job JOB.json`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializeAsAny, model_validator

from danlu.config import Settings, check, read_yaml
from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import Stopped, UserError
from danlu.ledger.files import atomic_file, sole_user
from danlu.ledger.parent import end_with
from danlu.model.settings import ModelSettings
from danlu.recipe.processes import PARENT, tell
from danlu.tokens.settings import DataSettings, StageName
from danlu.train.preference_settings import TRAIN_SETTINGS, RewardTrainSettings
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA, QLoRA

if TYPE_CHECKING:
    from danlu.model.decoder import Decoder
    from danlu.tokens.stream import Stream
    from danlu.tokens.tokenizer import Tokenizer

FILE = "job.json"
STOPPED = 130  # the exit code of a process that was asked to stop and saved
AGAIN = 75  # of one that did not fit into memory, and changed the job so that it will when it is started again


class TrainingJob(Settings):
    """Everything that one training stage needs to know."""

    stage: StageName = Field(description="Which objective and unit.")
    train: SerializeAsAny[TrainSettings] = Field(description="How it is trained.")
    data: DataSettings = Field(description="What the packed data were made from, and how they become rows.")
    packed: Path = Field(description="The pack stage's folder.")
    tokenizer: Path = Field(description="The tokenizer's folder.")
    model: ModelSettings | None = Field(None, description="Shape of a new decoder; null: `start` brings it.")
    start: str | None = Field(None, description="Folder of the weights to start from; null: random ones.")
    seed: int = Field(42, description="Seed of initial weights and order.")

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_stage(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("train"), dict) and given.get("stage") in TRAIN_SETTINGS:
            return {**given, "train": check(TRAIN_SETTINGS[given["stage"]], given["train"])}
        return given


def run_job(job: TrainingJob, out: Path) -> Path:
    """Trains, or goes on training, in this process or as one of torchrun's; gives the last checkpoint's folder."""
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer
    from danlu.train.loop import train
    from danlu.train.objectives.reward import require_own_padding
    from danlu.train.objectives.table import objective_of

    _require_memory(job)
    tokenizer = Tokenizer.load(job.tokenizer)
    template = Template(tokenizer) if tokenizer.chat_template else None
    if job.stage == "reward" and template is not None:
        require_own_padding(template)
    return train(
        job.train,
        objective_of(job.train),
        _decoder(job, tokenizer),
        tokenizer,
        template,
        training_stream(job),
        held_out_streams(job),
        out,
        config=job.model_dump(mode="json", by_alias=True),
        seed=job.seed,
    )


def training_stream(job: TrainingJob) -> Stream:
    """The packed training data in the order of the job's seed."""
    from danlu.tokens.pack import open_stream

    epochs, skip = job.train.epochs, job.train.skip
    return _with_margin(job, open_stream(job.packed, job.data, job.stage, seed=job.seed, epochs=epochs, skip=skip))


def _with_margin(job: TrainingJob, stream: Stream) -> Stream:
    """Beside each pair how much better its chosen answer is, where the rows say it and the job asks for it."""
    from danlu.tokens.scores import margins
    from danlu.train.objectives.reward import MARGIN

    if not isinstance(job.train, RewardTrainSettings) or job.train.margin is None:
        return stream
    return stream.with_columns({MARGIN: margins(stream.sets, job.train.margin)})


def _require_memory(job: TrainingJob) -> None:
    from danlu.model.open import shape_of
    from danlu.model.reward_head import reward_shape
    from danlu.train import parallel
    from danlu.train.memory import require_fit

    shape = job.model or shape_of(resolve_checkpoint(Path(job.start or "")))
    shape = reward_shape(shape) if job.stage == "reward" else shape
    require_fit(job.train, shape, job.data.length, job.data.unit(job.stage), parallel.join())


def _decoder(job: TrainingJob, tokenizer: Tokenizer) -> Decoder:
    """The starting weights."""
    import torch

    from danlu.model.decoder import Decoder
    from danlu.model.open import open_decoder
    from danlu.model.parts import initialise
    from danlu.model.reward_head import reward_decoder
    from danlu.train import parallel
    from danlu.train.precision import DTYPES

    if job.start is not None:
        # A frozen base goes straight where it is computed with, as it is; what is trained begins in float32 on the CPU.
        frozen = isinstance(job.train.tune, LoRA)
        decoder = open_decoder(
            resolve_checkpoint(Path(job.start)),
            DTYPES[job.train.precision] if frozen else torch.float32,
            parallel.join().device if frozen else "cpu",
            quantisation="nf4" if isinstance(job.train.tune, QLoRA) else None,
        )
    elif job.model is not None:
        decoder = Decoder.empty(job.model)
        initialise(decoder, job.seed)
    else:
        raise ValueError("a job has a shape or a start")
    if tokenizer.vocab_size > decoder.settings.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} entries and the embedding {decoder.settings.vocab_size} rows",
            where=str(job.tokenizer),
            do=f"set model.vocab_size to at least {tokenizer.vocab_size}, use the model's own tokenizer, or make model "
            "and tokenizer larger together: danlu tokenizer extend MODEL OUT",
        )
    return reward_decoder(decoder, job.seed) if job.stage == "reward" else decoder


def held_out_streams(job: TrainingJob) -> Mapping[str, Stream]:
    """What was held out of each source, where anything was.

    Raises UserError where a held-out set is missing or damaged, before hours of training lead up to its first use.
    """
    from danlu.tokens.pack import folder_names, open_stream
    from danlu.tokens.shards import TokenSet

    streams = {}
    for name, source in zip(folder_names(job.data.sources), job.data.sources, strict=True):
        if not len(TokenSet.open(job.packed / "held_out" / name)):
            continue
        one = job.data.model_copy(update={"sources": [source.model_copy(update={"name": name})]})
        stream = open_stream(job.packed, one, job.stage, split="held_out")
        for token_set in stream.sets:
            token_set.verify()
        streams[name] = _with_margin(job, stream)
    return streams


def main() -> None:
    """Runs the job file that the command line names, in its folder."""
    from danlu.train.fewer_rows import StartAgain

    if PARENT in os.environ:
        end_with(int(os.environ[PARENT]), saving=True)
    if len(sys.argv) != 2:
        sys.exit(f"danlu: name one job file: python -m danlu.recipe.job STAGE/{FILE}")
    path = Path(sys.argv[1])
    try:
        content, places = read_yaml(path)
        job = check(TrainingJob, content, places)
        # Processes that lost their parent may still be saving here.
        with sole_user(path.parent) if os.environ.get("RANK", "0") == "0" else nullcontext():
            run_job(job, path.parent)
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":  # all stop after the same step
            print(f"danlu: {stopped}", file=sys.stderr, flush=True)
        sys.exit(STOPPED)
    except UserError as error:
        if isinstance(error, StartAgain):
            print(f"danlu: {error}", file=sys.stderr, flush=True)
            resume = "auto" if job.train.resume == "never" else job.train.resume
            changed = job.train.model_copy(update={"rows": error.rows, "resume": resume})
            write_job(job.model_copy(update={"train": changed}), path.parent)
        else:
            tell(error)
        # Others may wait for this process in an exchange, and it for them where its group is taken down in order.
        os._exit(AGAIN if isinstance(error, StartAgain) else 2)


def write_job(job: TrainingJob, out: Path) -> Path:
    """Writes `out`/job.json and gives its path."""
    with atomic_file(out / FILE) as handle:
        handle.write(job.model_dump_json(indent=1, by_alias=True))
    return out / FILE


if __name__ == "__main__":
    main()
