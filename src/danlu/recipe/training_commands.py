"""The commands that train: what each does, and where its settings are."""

from __future__ import annotations

from typing import NamedTuple

_PREFERENCES = "danlu.train.preference_settings:"


class TrainingCommand(NamedTuple):
    """`settings` is "module:Class" of the stage's `train` section."""

    meaning: str
    settings: str


TRAINING_COMMANDS = {
    "pretrain": TrainingCommand("Trains on documents.", "danlu.train.settings:TrainSettings"),
    "sft": TrainingCommand("Trains on conversations.", "danlu.train.settings:TrainSettings"),
    "reward": TrainingCommand("Trains a reward model on preference pairs.", f"{_PREFERENCES}RewardTrainSettings"),
    "orpo": TrainingCommand("SFT and preference in one, no reference (ORPO).", f"{_PREFERENCES}ORPOTrainSettings"),
    "dpo": TrainingCommand("Trains on preference pairs (DPO, IPO, hinge).", f"{_PREFERENCES}DPOTrainSettings"),
    "simpo": TrainingCommand("Trains on preference pairs, no reference (SimPO).", f"{_PREFERENCES}SimPOTrainSettings"),
    "kto": TrainingCommand("Trains on answers labelled good or bad (KTO).", f"{_PREFERENCES}KTOTrainSettings"),
}
