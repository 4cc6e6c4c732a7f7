"""The objective that a stage's settings ask for."""

from __future__ import annotations

from danlu.train.objectives.base import Objective
from danlu.train.objectives.dpo import DPO
from danlu.train.objectives.kto import KTO
from danlu.train.objectives.next_token import NextToken
from danlu.train.objectives.orpo import ORPO
from danlu.train.objectives.reward import Reward
from danlu.train.objectives.simpo import SimPO
from danlu.train.preference_settings import (
    DPOTrainSettings,
    KTOTrainSettings,
    ORPOTrainSettings,
    RewardTrainSettings,
    SimPOTrainSettings,
)
from danlu.train.settings import TrainSettings


def objective_of(settings: TrainSettings) -> Objective:
    """What a run with these settings minimises."""
    match settings:
        case DPOTrainSettings():
            return DPO(settings)
        case KTOTrainSettings():
            return KTO(settings)
        case ORPOTrainSettings():
            return ORPO(settings)
        case SimPOTrainSettings():
            return SimPO(settings)
        case RewardTrainSettings():
            return Reward(settings)
    return NextToken()
