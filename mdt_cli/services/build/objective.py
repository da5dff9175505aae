"""From the [objective] table to a loss, and what generates images with it."""

from typing import assert_never

from mdt_cli.config.objective import (
    ClassificationConfig,
    EdmConfig,
    EpsilonConfig,
    FlowConfig,
    ObjectiveConfig,
    ReconstructionConfig,
)
from mdt_cli.core.objectives.base import Diffusion, Loss
from mdt_cli.core.objectives.classification import Classification
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.objectives.reconstruction import Reconstruction
from mdt_cli.errors import MdtError


def build_loss(table: ObjectiveConfig) -> Loss:
    """The loss that a table describes; its `diffusion` is None where it generates nothing."""
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
            return Flow(
                (table.time_mean, table.time_std) if logit_normal else None,
                table.predict,
                table.floor,
                table.shift,
                table.noise_scale,
            )
        case ReconstructionConfig():
            return Reconstruction()
        case ClassificationConfig():
            return Classification(table.label_smoothing)
        case _:
            assert_never(table)


def diffusion_of(loss: Loss) -> Diffusion:
    """What generates images; MdtError that says what the network does instead."""
    if loss.diffusion is not None:
        return loss.diffusion
    if loss.classifies:
        raise MdtError(
            "this model is a classifier and cannot generate images",
            "sample from the run it was finetuned from, or from one of another recipe",
        )
    raise MdtError(
        "this model restores masked images and cannot generate images",
        "mdt sample RUN OUT --reconstruct IMAGES shows what it can do",
    )
