"""From the [objective] table to an objective."""

from typing import assert_never

from mdt_cli.config.objective import (
    ClassificationConfig,
    EdmConfig,
    EpsilonConfig,
    FlowConfig,
    ObjectiveConfig,
    ReconstructionConfig,
)
from mdt_cli.core.objectives.base import Objective
from mdt_cli.core.objectives.classification import Classification
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.objectives.reconstruction import Reconstruction


def build_objective(table: ObjectiveConfig) -> Objective:
    match table:
        case EpsilonConfig():
            gamma = table.min_snr_gamma if table.weighting == "min_snr" else None
            return Epsilon(
                table.num_timesteps, table.learned_variance, gamma, table.betas, table.first_time
            )
        case EdmConfig():
            return Edm(table.P_mean, table.P_std, table.sigma_data)
        case FlowConfig():
            logit_normal = table.time == "logit_normal"
            return Flow((table.time_mean, table.time_std) if logit_normal else None)
        case ReconstructionConfig():
            return Reconstruction()
        case ClassificationConfig():
            return Classification(table.label_smoothing)
        case _:
            assert_never(table)
