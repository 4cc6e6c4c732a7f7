"""What a recipe may hold: a section for each stage, every one optional, in the order of the way through the house."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.config import Settings, load_settings
from danlu.evaluate.settings import EvaluateSettings
from danlu.ledger.checkpoints import EPOCH
from danlu.ledger.errors import UserError
from danlu.model.settings import ModelSettings
from danlu.recipe.stand_in import STAND_IN, StandInSettings
from danlu.text.sample.settings import SampleSettings
from danlu.text.settings import CleanSettings
from danlu.tokens.settings import DataSettings, StageName, TokenizerSettings
from danlu.train.preference_settings import (
    DPOTrainSettings,
    KTOTrainSettings,
    ORPOTrainSettings,
    RewardTrainSettings,
    SimPOTrainSettings,
)
from danlu.train.settings import TrainSettings
from danlu.train.tune_settings import LoRA, asked_form, saved_form

TRAINING: tuple[StageName, ...] = ("pretrain", "sft", "reward", "orpo", "dpo", "simpo", "kto")


class TrainingStage(Settings):
    """One training stage: its data and its run."""

    start: str | None = Field(
        default=None,
        description="Where the weights come from: the name of an earlier stage of this recipe, a model folder, a "
        "checkpoint or a run, with `@epoch=2` behind it for the end of that epoch; null: from the training stage "
        "before it in this recipe, else from `model`.",
    )
    data: DataSettings = Field(description="What is read, and how it becomes rows.")
    train: TrainSettings = Field(default=TrainSettings(), description="How it is trained.")

    @model_validator(mode="after")
    def _compares_what_is_held_out(self) -> Self:
        if self.train.save.keep_best and not self.data.held_out:
            raise ValueError(
                "train.save.keep_best compares held-out losses, and data.held_out is 0: hold some out, or set "
                "keep_best to 0."
            )
        return self


class RewardStage(TrainingStage):
    """A reward model on pairs."""

    train: RewardTrainSettings = Field(default=RewardTrainSettings(), description="How it is trained.")


class DPOStage(TrainingStage):
    """Direct preference optimisation on pairs."""

    train: DPOTrainSettings = Field(default=DPOTrainSettings(), description="How it is trained.")


class KTOStage(TrainingStage):
    """Kahneman-Tversky optimisation on labelled answers; a pair is two of them."""

    train: KTOTrainSettings = Field(default=KTOTrainSettings(), description="How it is trained.")


class ORPOStage(TrainingStage):
    """Odds-ratio preference optimisation on pairs."""

    train: ORPOTrainSettings = Field(default=ORPOTrainSettings(), description="How it is trained.")


class SimPOStage(TrainingStage):
    """Simple preference optimisation on pairs."""

    train: SimPOTrainSettings = Field(default=SimPOTrainSettings(), description="How it is trained.")


class Recipe(Settings):
    """A run from text to a model that answers. Stages that a recipe leaves out are not run."""

    name: str = Field(description="The run's name, for plots and reports.")
    out: Path = Field(description="Folder of all that the run writes.")
    data: Path = Field(default=Path(), description="Data root: relative paths of sources begin here.")
    seed: int = Field(
        default=42, ge=0, description="Seed of initial weights, order and dropout of everything in the run."
    )
    language: Literal["en", "zh"] = Field(
        default="en", description="Language of the report and of what run and doctor say of the stages."
    )
    processes: int | None = Field(
        default=None, gt=0, description="Training processes on this machine; null: one for each GPU, or one on a CPU."
    )
    token_sets: Path | None = Field(
        default=None,
        description="Folder of encoded sources that runs share (`danlu sets` lists and clears it); null: `token-sets` "
        "beside `out`.",
    )
    sample: SampleSettings | None = Field(default=None, description="A generated bilingual world to learn from.")
    clean: CleanSettings | None = Field(default=None, description="Cleaning of records.")
    tokenizer: TokenizerSettings | None = Field(default=None, description="A tokenizer to load or to train.")
    model: ModelSettings | None = Field(
        default=None, description="The decoder's shape, or the folder that it comes from."
    )
    stand_in: StandInSettings | None = Field(
        default=None,
        description="Random weights in the form of a published model: --smoke trains them in place of `model.from`, "
        'and so does `model.from: "stand_in:"` with `tokenizer.path: "stand_in:"`.',
    )
    pretrain: TrainingStage | None = Field(default=None, description="Next-token training on documents.")
    sft: TrainingStage | None = Field(default=None, description="Supervised fine-tuning on conversations.")
    reward: RewardStage | None = Field(
        default=None, description="A reward model on pairs; later stages do not start from it."
    )
    dpo: DPOStage | None = Field(default=None, description="Direct preference optimisation on pairs.")
    kto: KTOStage | None = Field(
        default=None, description="Kahneman-Tversky optimisation on answers labelled good or bad, or pairs."
    )
    orpo: ORPOStage | None = Field(
        default=None, description="Odds-ratio preference optimisation on pairs, from a base model."
    )
    simpo: SimPOStage | None = Field(default=None, description="Simple preference optimisation on pairs.")
    evaluate: EvaluateSettings | None = Field(default=None, description="Measuring what each stage gave.")

    @model_validator(mode="after")
    def _starts_by_name(self) -> Self:
        """`start: sft` is the folder of this recipe's stage."""
        found: dict[str, TrainingStage] = {}
        for name in TRAINING:
            section = getattr(self, name)
            stage, at, epoch = (section.start or "" if section else "").partition(EPOCH)
            if stage in TRAINING and getattr(self, stage):
                if TRAINING.index(name) <= TRAINING.index(stage):
                    raise ValueError(f"{name}.start: {stage} does not come before {name}. Name an earlier stage.")
                found[name] = section.model_copy(update={"start": f"{self.out / stage}{at}{epoch}"})
        return self.model_copy(update=found)

    @model_validator(mode="after")
    def _stand_in_by_name(self) -> Self:
        """`stand_in:` is the folder of this recipe's stage."""
        name, place, found = Path(f"{STAND_IN}:"), self.out / STAND_IN, dict[str, Settings]()
        if self.model and self.model.from_folder == name:
            found["model"] = self.model.model_copy(update={"from_folder": place})
        if self.tokenizer and self.tokenizer.path == str(name):
            found["tokenizer"] = self.tokenizer.model_copy(update={"path": str(place)})
        if found and self.stand_in is None:
            raise ValueError(f"`{name}` names a section that is not there: add `stand_in: {{published: …}}`.")
        return self.model_copy(update=found)

    @model_validator(mode="after")
    def _a_row_for_every_entry(self) -> Self:
        """A vocabulary that is learned here gives the embedding its size, unless `model.vocab_size` does."""
        learned = self.tokenizer.train if self.tokenizer else None
        if self.model is None or learned is None or self.model.model_fields_set & {"from_folder", "vocab_size"}:
            return self
        return self.model_copy(update={"model": self.model.model_copy(update={"vocab_size": learned.vocab_size})})

    @model_validator(mode="after")
    def _whole(self) -> Self:
        trained = [name for name in TRAINING if getattr(self, name)]
        if trained and self.tokenizer is None and (self.model is None or self.model.from_folder is None):
            raise ValueError(
                f"{trained[0]} needs a tokenizer: add `tokenizer: {{path: FOLDER}}` or `tokenizer: {{train: …}}`."
            )
        if trained and self.model is None and getattr(self, trained[0]).start is None:
            raise ValueError(
                f"{trained[0]} needs weights to start from: add a `model:` section or `{trained[0]}.start`."
            )
        for name in TRAINING:
            if section := getattr(self, name):
                self._fits(name, section)
        if self.evaluate and self.evaluate.base and (self.model is None or self.model.from_folder is None):
            raise ValueError("evaluate.base measures the folder of `model.from`: name one, or remove it.")
        return self

    def _fits(self, name: StageName, section: TrainingStage) -> None:
        """Raises ValueError for what would otherwise come out only when the stage's turn comes."""
        try:
            section.data.unit(name)
        except UserError as error:
            raise ValueError(f"{name}.data: {error.what}: {error.do}.") from None
        if section.train.by and section.data.pack == "concat":
            raise ValueError(
                f"{name}.train.by: windows of `pack: concat` hold records with other tags side by side. Set `pack: "
                "best_fit` or `none`."
            )
        before = self.stage_before(name)
        earlier, own = self.training()[before].train.tune if before else None, section.train.tune
        if isinstance(earlier, LoRA) and isinstance(own, LoRA) and not asked_form(own).fits(saved_form(earlier)):
            raise ValueError(
                f"{name}.train.tune: the adapter that {before} leaves has {saved_form(earlier)}, and {name} asks "
                f"for {asked_form(own)}. Give both the same rank, alpha, rslora and dora."
            )
        model = self.model if self.model and self.model.from_folder is None else None
        if model and section.data.length > model.longest:
            raise ValueError(
                f"{name}.data.length ({section.data.length}) is beyond model.max_positions ({model.max_positions}): "
                "lower the one or raise the other."
            )
        learned = self.tokenizer.train.vocab_size if self.tokenizer and self.tokenizer.train else 0
        if model and learned > model.vocab_size:
            raise ValueError(
                f"tokenizer.train.vocab_size ({learned}) is beyond model.vocab_size ({model.vocab_size}): "
                "the embedding needs a row for every entry."
            )
        kind = self.tokenizer.train.kind if self.tokenizer and self.tokenizer.train else ""
        if model and model.family == "qwen2" and kind == "sentencepiece":
            raise ValueError(
                "tokenizer.train.kind: sentencepiece does not go with model.family: qwen2, in which transformers "
                "splits every text as Qwen2 does. Set model.family to llama, mistral or qwen3, or the kind to byte_bpe."
            )

    def training(self) -> dict[str, TrainingStage]:
        """The training stages that the recipe has, in order."""
        return {name: getattr(self, name) for name in TRAINING if getattr(self, name) is not None}

    def start_of(self, name: str) -> str | None:
        """Where a training stage's weights come from: a folder, as `start` may say it; None: random ones."""
        if start := self.training()[name].start:
            return start
        if before := [other for other in self._earlier(name) if other != "reward"]:
            return str(self.out / before[-1])
        return str(self.model.from_folder) if self.model and self.model.from_folder else None

    def stage_before(self, name: str) -> str | None:
        """The training stage of this recipe that makes the weights from which another starts."""
        folder = Path((self.start_of(name) or "").partition(EPOCH)[0])
        made = [other for other in self._earlier(name) if self.out / other in (folder, *folder.parents)]
        return made[0] if made else None

    def _earlier(self, name: str) -> list[str]:
        stages = list(self.training())
        return stages[: stages.index(name)]


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads and checks a recipe; UserError names each mistake's file, line and key."""
    return load_settings(Recipe, Path(path), overrides)
