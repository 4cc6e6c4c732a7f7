"""What a training run may be told, whatever its objective."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.config import Settings
from danlu.tokens.settings import LossLimits
from danlu.train.tune_settings import Full, LoRA, Tune

Sharding = Literal["none", "optimizer", "gradients", "full"]


class RampStage(Settings):
    """A batch size that holds until so many tokens were seen."""

    tokens: int = Field(gt=0, description="This batch holds until the run has seen so many tokens.")
    batch: int = Field(gt=0, description="Examples a step while the stage lasts.")


class SaveSettings(Settings):
    """When a checkpoint is written and which ones stay."""

    every: int = Field(default=0, ge=0, description="Save after every so many steps; 0: only at the end.")
    every_epoch: bool = Field(
        default=False, description="Save at the end of each epoch; these checkpoints are never deleted."
    )
    keep_last: int = Field(default=2, ge=1, description="How many of the newest checkpoints stay.")
    keep_best: int = Field(
        default=0,
        ge=0,
        description="How many checkpoints with the lowest held-out loss stay besides; each is then measured as it is "
        "saved.",
    )
    load_best: bool = Field(
        default=False,
        description="Once the run has ended, its best checkpoint and not its newest is what later stages, evaluation, "
        "chat and export take; needs keep_best.",
    )
    weights_only: bool = Field(
        default=False,
        description="Leave optimizer and float32 weights out: small checkpoints that a run cannot resume from.",
    )


class TrainSettings(Settings):
    """One training run, whatever its objective."""

    epochs: float = Field(default=1.0, gt=0, description="Passes over the data.")
    steps: int | None = Field(
        default=None, gt=0, description="At most this many steps of the full batch; null: as many as the epochs give."
    )
    batch: int = Field(
        default=32,
        gt=0,
        description="Examples a step over all devices, in the unit of the data: windows, conversations, pairs.",
    )
    rows: int | None = Field(
        default=None,
        gt=0,
        description="Rows of a micro-batch on one device; null: chosen from the free memory. Never changes a result.",
    )
    batch_ramp: list[RampStage] = Field(
        default=[],
        description="Smaller batches at the start, as a list of {tokens, batch}; after the last stage `batch` holds.",
    )

    tune: Tune = Field(
        default=Full(),
        description="What is trained: {method: full}, {method: layers, last: 2}, {method: lora, rank: 8}, or "
        "{method: qlora, rank: 64} over a base in 4 bits.",
    )
    neftune: float = Field(
        default=0.0,
        ge=0,
        description="Uniform noise on embeddings in training, of at most this over √(length · width) (NEFTune, arXiv "
        "2310.05914, advises 5); 0: none.",
    )
    learning_rate: float = Field(default=3e-4, gt=0, description="The highest learning rate.")
    schedule: Literal["cosine", "wsd", "linear", "constant"] = Field(
        default="cosine",
        description="How the rate falls after warmup: cosine; wsd (steady, then 1 - sqrt over the last `decay`); "
        "linear; constant.",
    )
    warmup: float = Field(
        default=0.01,
        ge=0,
        description="Linear warmup: below 1 a share of the run, from 1 on a number of steps of the full batch.",
    )
    decay: float = Field(default=0.2, gt=0, le=1, description="wsd only: the share of the run in which the rate falls.")
    floor: float = Field(default=0.1, ge=0, le=1, description="Where the rate ends, as a share of the highest.")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="adamw; or muon for the matrices of the blocks (q, k, v, gate, up apart) and adamw for the rest.",
    )
    optimizer_states: Literal["float32", "8bit", "paged"] = Field(
        default="float32",
        description="How AdamW keeps its moments: float32; 8bit: a quarter of that; paged: float32 that moves to the "
        "host where a GPU runs short, by bitsandbytes (extra `bitsandbytes`).",
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.95), description="AdamW: decay of the averages of gradient and squared gradient."
    )
    eps: float = Field(default=1e-8, gt=0, description="AdamW: added to the root of the squared gradient's average.")
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Muon: Nesterov momentum.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled weight decay; norms and biases are spared.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest global norm of the gradient; null: not clipped.")

    precision: Literal["float32", "bf16", "fp16", "float8"] = Field(
        default="float32",
        description="What is computed in. Below float32 the optimizer keeps float32 weights; fp16 scales the loss; "
        "float8 is bf16 with the products of the layers' projections in 8 bits, forward and backward, of an adapter's "
        "those of its frozen base: faster from some 3B parameters on, on GPUs since Ada and Hopper.",
    )
    compile: bool | None = Field(default=None, description="Compile each block; null: on a GPU only.")
    recompute: bool = Field(
        default=False,
        description="Compute activations again in the backward pass: much less memory, about a quarter more time.",
    )
    sharding: Sharding | None = Field(
        default=None,
        description="What several processes share out among them: none; optimizer (ZeRO-1: float32 weights and "
        "moments); gradients as well (ZeRO-2); full (ZeRO-3: the weights that are computed with, too). Each needs less "
        "memory than the one before and exchanges more. null: none where all of it fills at most half of a GPU, else "
        "full, or optimizer where optimizer_states is not float32. Never changes a result.",
    )
    deterministic: bool = Field(
        default=False, description="On a GPU: slower algorithms that give the same bits each time."
    )

    save: SaveSettings = Field(default=SaveSettings(), description="When a checkpoint is written and which ones stay.")
    evaluate_every: int = Field(
        default=0, ge=0, description="Held-out loss after every so many steps; 0: only at the end."
    )
    by: list[str] = Field(
        default=[],
        description="Tags by whose values held-out loss is told as well, such as [region, age]: those in the records' "
        "`meta.tags`, as the cleaning step tags writes them.",
    )
    resume: str = Field(
        default="auto",
        description="auto: from the newest checkpoint here, if any; healthy: from the newest whose loss and gradient "
        "were calm; never: refuse to go on; or the folder of a checkpoint.",
    )
    skip: list[tuple[int, int]] = Field(
        default=[], description="Stream positions that are left out, as [from, to) pairs; they count as consumed."
    )
    max_bad_steps: int = Field(
        default=10,
        gt=0,
        description="Stop after so many steps in a row whose loss or gradient is not finite. None of them is applied.",
    )
    limits: LossLimits = Field(
        default=LossLimits(), description="What the check of the data may find before training refuses."
    )
    trackers: list[Literal["tensorboard", "wandb", "swanlab"]] = Field(
        default=[], description="Where metrics are shown besides; a tracker that fails never stops the run."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must each be at least 0 and below 1.")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError(f"warmup {self.warmup} must be a share below 1 or a whole number of steps.")
        if self.schedule == "wsd" and self.warmup < 1 and self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup {self.warmup} and decay {self.decay} together pass the whole run: lower one of them."
            )
        if any(start < 0 or end <= start for start, end in self.skip):
            raise ValueError(f"skip {self.skip} must hold [from, to) pairs with 0 ≤ from < to.")
        tokens = [stage.tokens for stage in self.batch_ramp]
        if tokens != sorted(set(tokens)):
            raise ValueError(f"batch_ramp must rise in tokens, but has {tokens}: order its stages.")
        if isinstance(self.tune, LoRA) and self.optimizer == "muon":
            raise ValueError(
                "optimizer: muon orthogonalises whole matrices, and an adapter trains the factors of one: set "
                "optimizer: adamw, or tune: {method: full}."
            )
        if self.optimizer_states != "float32" and self.sharding in ("gradients", "full"):
            raise ValueError(
                f"optimizer_states: {self.optimizer_states} keeps moments that cannot be cut into shards: set "
                "sharding: none or optimizer, or optimizer_states: float32."
            )
        if self.save.load_best and not self.save.keep_best:
            raise ValueError("save.load_best needs the best checkpoint to stay: set save.keep_best to 1 or more.")
        return self
