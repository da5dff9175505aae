"""`[sampling]`: solver, steps, guidance and the rule that rounds images to bytes."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mdt_cli.config.base import NonNegative, Positive, SamplingSteps, Table

Scale = Annotated[float, Field(ge=0)]
# JSON knows no infinity.
Limit = Annotated[Positive, AfterValidator(lambda high: min(high, 1e9))]
Channels = Literal["all", "first3"]
Precision = Literal["float32", "tf32", "bf16"]


class NoGuidanceConfig(Table):
    kind: Literal["none"] = "none"


class ConstantGuidanceConfig(Table):
    """Classifier-free guidance (Ho & Salimans 2022); `first3` is what DiT and MDT publish."""

    kind: Literal["constant"] = "constant"
    scale: Scale = 1.5
    channels: Channels = "all"


class PowerCosineGuidanceConfig(Table):
    """MDT's code: 1 + (scale-1) (1 - cos(pi (1-t)^power)) / 2, t from 1 (noise) to 0."""

    kind: Literal["power_cosine"] = "power_cosine"
    scale: Scale = 3.8
    power: Positive = 4.0
    channels: Channels = "first3"


class IntervalGuidanceConfig(Table):
    """Constant, but only while the noise-to-signal ratio is in [low, high] (2404.07724).

    A `high` of 1e9 or more, such as inf, is no limit.
    """

    kind: Literal["interval"] = "interval"
    scale: Scale = 1.5
    low: NonNegative = 0.0
    high: Limit = 1e9
    channels: Channels = "all"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class InternalGuidanceConfig(Table):
    """Away from the early head's estimate, without another pass (Zhou et al. 2025, 2512.24176).

    While the noise-to-signal ratio is in [low, high]. Classifier-free guidance of `cfg_scale`
    follows, on what both conditions give, while the ratio is in [cfg_low, cfg_high].
    """

    kind: Literal["internal"] = "internal"
    scale: Scale = 1.4
    low: NonNegative = 0.0
    high: Limit = 1e9
    cfg_scale: Scale = 1.0
    cfg_low: NonNegative = 0.0
    cfg_high: Limit = 1e9
    channels: Channels = "all"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (("low", "high"), ("cfg_low", "cfg_high")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} {getattr(self, low)} is above {high} {getattr(self, high)}"
                )
        return self


GuidanceConfig = Annotated[
    NoGuidanceConfig
    | ConstantGuidanceConfig
    | PowerCosineGuidanceConfig
    | IntervalGuidanceConfig
    | InternalGuidanceConfig,
    Field(discriminator="kind"),
]


class SamplingConfig(Table):
    # ddpm: ancestral with respacing and learned variance. ddim: with eta. heun, euler:
    # probability-flow ODE. dpm++: DPM-Solver++(2M), multistep. dpm++3s: DPM-Solver++ in single
    # steps of order 3 (U-ViT): `steps` network calls, in epsilon runs between the training times.
    solver: Literal["ddpm", "ddim", "euler", "heun", "dpm++", "dpm++3s"] = "ddpm"
    steps: SamplingSteps = 250
    # Share of DDPM noise put back by ddim; 0: deterministic.
    eta: NonNegative = 0.0
    # Training times that an epsilon run visits. respaced: evenly, the first and the last among
    # them (DiT, MDT). linspace: the last of each of `steps` equal parts (MaskDM). ends, trailing:
    # the same up to rounding, as version 0.1 computed them and its runs keep.
    spacing: Literal["respaced", "linspace", "ends", "trailing"] = "respaced"
    # Keep every clean estimate within [-1, 1]; for pixels. ddim then puts back the noise that the
    # network named, not the one that the kept estimate implies, as MaskDM publishes it.
    clip: bool = False
    guidance: GuidanceConfig = NoGuidanceConfig()
    # round: 127.5 x + 128, cut (DiT). truncate: (x+1) 127.5, cut (MDT, MaskDiT).
    uint8: Literal["round", "truncate"] = "round"
    # Arithmetic of `mdt sample` on a GPU. tf32: products and convolutions of the network and the
    # decoder keep 10 bits of mantissa. bf16: the network under autocast, the rest float32.
    precision: Precision = "float32"
    # Karras et al. 2022, eq. 5: the noise levels of edm runs.
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0
    # The times t of flow runs become s t / (1 + (s-1) t): above 1, more of the steps are spent
    # where there is much noise.
    shift: Positive = 1.0
