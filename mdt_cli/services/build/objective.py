"""From the [objective] table to an objective."""

from typing import assert_never

from mdt_cli.config.objective import Classification as ClassificationTable
from mdt_cli.config.objective import Edm as EdmTable
from mdt_cli.config.objective import Epsilon as EpsilonTable
from mdt_cli.config.objective import Flow as FlowTable
from mdt_cli.config.objective import Objective as ObjectiveTable
from mdt_cli.config.objective import Reconstruction as ReconstructionTable
from mdt_cli.core.objectives.base import Objective
from mdt_cli.core.objectives.classification import Classification
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.objectives.reconstruction import Reconstruction


def build_objective(table: ObjectiveTable) -> Objective:
    match table:
        case EpsilonTable():
            gamma = table.min_snr_gamma if table.weighting == "min_snr" else None
            return Epsilon(
                table.num_timesteps, table.learned_variance, gamma, table.betas, table.first_time
            )
        case EdmTable():
            return Edm(table.P_mean, table.P_std, table.sigma_data)
        case FlowTable():
            logit_normal = table.time == "logit_normal"
            return Flow((table.time_mean, table.time_std) if logit_normal else None)
        case ReconstructionTable():
            return Reconstruction()
        case ClassificationTable():
            return Classification(table.label_smoothing)
        case _:
            assert_never(table)
