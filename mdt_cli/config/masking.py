"""`[masking]`: which tokens a pass keeps, how they return, and which passes a step runs."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mdt_cli.config.base import Count, Fraction, Positive, Table

Share = Annotated[float, Field(ge=0, le=1)]


class RandomTokensConfig(Table):
    """Random tokens (MAE and most recipes); the count is rounded up to a multiple of `bucket`."""

    kind: Literal["random"] = "random"
    bucket: Count = 1
    # Which count is rounded down: floor(N (1 - ratio)) kept (MAE and most recipes), or
    # floor(N ratio) dropped (TREAD).
    floor: Literal["kept", "dropped"] = "kept"


class RandomBlocksConfig(Table):
    """Random blocks of size x size tokens are dropped (MaskDM); the size must divide the grid."""

    kind: Literal["block"] = "block"
    size: Count = 4


class CropWindowConfig(Table):
    """One random window of size x size tokens is kept (MaskDM); the ratio has no say."""

    kind: Literal["crop"] = "crop"
    size: Count = 5


def _kind_alone(value: object) -> object:
    """`selector = "random"` is short for a table with this kind and nothing else."""
    return {"kind": value} if isinstance(value, str) else value


SelectorConfig = Annotated[
    RandomTokensConfig | RandomBlocksConfig | CropWindowConfig,
    Field(discriminator="kind"),
    BeforeValidator(_kind_alone),
]


class ConstantRatioConfig(Table):
    kind: Literal["constant"] = "constant"
    value: Fraction = 0.5


class UniformRatioConfig(Table):
    """One draw from [low, high), shared by the images of a step or of a micro-batch (MDT v2)."""

    kind: Literal["uniform"] = "uniform"
    low: Fraction = 0.3
    high: Fraction = 0.5
    # micro_batch: each forward pass of training.micro_batch_size images has a ratio of its own, as
    # in MDT v2's code. step: all micro-batches of a step share one.
    draw: Literal["step", "micro_batch"] = "step"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class LinearRatioConfig(Table):
    """A straight line over all steps."""

    kind: Literal["linear"] = "linear"
    start: Fraction = 0.5
    end: Fraction = 0.0


class PiecewiseRatioConfig(Table):
    """Straight lines through points (share of the steps, ratio); the default is that of LMD.

    Two points with the same share are a jump.
    """

    kind: Literal["piecewise"] = "piecewise"
    points: Annotated[tuple[tuple[Share, Fraction], ...], Field(min_length=2)] = (
        (0.0, 0.15),
        (1 / 6, 0.40),
        (1 / 3, 0.40),
        (2 / 3, 0.75),
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        shares = [share for share, _ in self.points]
        if shares != sorted(shares):
            raise ValueError(
                f"points {shares} do not go forwards: order them by share of the steps"
            )
        return self


class CosineGrowthRatioConfig(Table):
    """From `start` to `end` over two thirds of the steps along a noise schedule's cosine (LMD)."""

    kind: Literal["cosine_growth"] = "cosine_growth"
    start: Fraction = 0.15
    end: Fraction = 0.75


class CosineDecayRatioConfig(Table):
    """From `start` to `end` along cos(pi/2 x)^power (MaskDiT's last stage with power 4)."""

    kind: Literal["cosine_decay"] = "cosine_decay"
    start: Fraction = 0.5
    end: Fraction = 0.0
    power: Positive = 4.0


RatioConfig = Annotated[
    ConstantRatioConfig
    | UniformRatioConfig
    | LinearRatioConfig
    | PiecewiseRatioConfig
    | CosineGrowthRatioConfig
    | CosineDecayRatioConfig,
    Field(discriminator="kind"),
]


class LossTermConfig(Table):
    """One mean: over a region, of the distance to a target.

    objective: the objective's own error, with its weight over time. clean, noisy: plain squares
    between the clean estimate and the clean or the noisy latents. teacher_noisy, teacher_clean:
    between it and the estimate of an EMA decoder that is fed with those latents (MC-DiT).
    """

    region: Literal["all", "kept", "dropped"] = "all"
    target: Literal["objective", "clean", "noisy", "teacher_noisy", "teacher_clean"] = "objective"
    # patch: each patch of the target has mean 0 and variance 1 (He et al. 2022).
    normalise: Literal["none", "patch"] = "none"
    # early: of the head behind `model.early_head_at` blocks.
    head: Literal["final", "early"] = "final"
    weight: Positive = 1.0

    @model_validator(mode="after")
    def _normalises_latents(self) -> Self:
        if self.normalise == "patch" and self.target not in ("clean", "noisy"):
            raise ValueError(
                f"normalise patch is for the targets clean and noisy, not {self.target}"
            )
        return self


class ViewConfig(Table):
    """One pass of a training step, on all tokens or on the kept ones, and its loss terms."""

    tokens: Literal["all", "kept"] = "all"
    terms: Annotated[tuple[LossTermConfig, ...], Field(min_length=1)] = (LossTermConfig(),)

    @model_validator(mode="after")
    def _regions_exist(self) -> Self:
        for term in self.terms:
            if self.tokens == "all" and term.region != "all":
                raise ValueError(
                    f"a pass on all tokens has no {term.region} tokens: set region to all"
                )
        return self


class MaskingConfig(Table):
    """Defaults: one pass on all tokens, which is plain training."""

    views: Annotated[tuple[ViewConfig, ...], Field(min_length=1)] = (ViewConfig(),)
    selector: SelectorConfig = RandomTokensConfig()
    ratio: RatioConfig = ConstantRatioConfig()
    # Tokens leave before block `leave_at` and return before block `restore_at`; negative counts
    # from the end, 0 for `restore_at` means after the last block.
    leave_at: int = 0
    restore_at: int = 0
    # What stands in for dropped tokens on the way back. nothing: they never return (MaskDM).
    # zeros. mean: of the kept tokens. mask_token: a learned vector. input: what they left as
    # (TREAD). interpolator: MDT's block over kept and mask tokens. clean_patches: embedded clean
    # latents (MC-DiT).
    fill: Literal[
        "nothing", "zeros", "mean", "mask_token", "input", "interpolator", "clean_patches"
    ] = "mask_token"

    @property
    def is_masked(self) -> bool:
        """Whether any pass sees kept tokens only."""
        return any(view.tokens == "kept" for view in self.views)

    @property
    def has_teacher(self) -> bool:
        """Whether any loss term has the output of an EMA decoder as its target."""
        return any(term.target.startswith("teacher") for view in self.views for term in view.terms)
