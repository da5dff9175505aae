"""`[training]`, `[optimizer]`, `[lr_schedule]`, `[ema]`, `[checkpoint]`, `[log]`, `[preview]`."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mdt_cli.config.base import (
    BatchSize,
    BatchSizeOrZero,
    Count,
    CountOrZero,
    NonNegative,
    Positive,
    SamplingSteps,
    Table,
)

Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Table):
    steps: Count = 400_000
    # Steps over which the learning rate and the mask ratio run their course; both stay as they are
    # at its end. 0: training.steps.
    schedule_steps: CountOrZero = 0
    # Images per optimizer step, over all processes.
    batch_size: BatchSize = 256
    # Images per forward pass. The results depend on this number, never on how many processes
    # compute the micro-batches. 0: the whole batch.
    micro_batch_size: BatchSizeOrZero = 0
    seed: CountOrZero = 0
    # The weights of the earlier stage that finetune starts from, unless --ema says otherwise.
    # both: online weights from online ones, EMA weights from those of the same decay (MaskDiT).
    start: Literal["ema", "online", "both"] = "ema"
    # Finetune on other classes than the weights know: the label table starts fresh.
    new_classes: bool = False
    # no: float32; tf32: float32 whose products a GPU rounds to TF32; else mixed precision.
    precision: Literal["no", "tf32", "fp16", "bf16"] = "no"
    # Largest gradient norm; 0: no clipping.
    clip_norm: NonNegative = 0.0
    compile: bool = False
    # Only algorithms that give the same bits in every run; on some GPUs slower. auto: on for CPUs,
    # off for GPUs. A run records what it began with.
    deterministic: Literal["auto"] | bool = "auto"
    # Stop after this many steps in a row with a loss or gradient that is not finite.
    max_bad_steps: Count = 20

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        return self

    @property
    def num_micro_batches(self) -> int:
        """Forward passes of each view in a step, over all processes."""
        return self.batch_size // self.micro_batch_size if self.micro_batch_size else 1


# Each block learns at this share of the rate of the block behind it; the head at the full rate.
LayerDecay = Annotated[float, Field(gt=0, le=1)]


class AdamWConfig(Table):
    kind: Literal["adamw"] = "adamw"
    lr: Positive = 1e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    # Whether biases, norms and other vectors decay as well.
    decay_1d: bool = True
    # Whether position tables and class tokens decay (in ViT's finetuning they do not).
    decay_tokens: bool = True
    layer_decay: LayerDecay = 1.0


class AdanConfig(Table):
    """Xie et al. 2022; MDT v2's optimizer. `betas` multiply the old state, as in its code."""

    kind: Literal["adan"] = "adan"
    lr: Positive = 3e-4
    betas: tuple[Beta, Beta, Beta] = (0.98, 0.92, 0.99)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    # Whether biases, norms and other vectors decay as well (in LMD they do not).
    decay_1d: bool = True
    # Whether position tables and class tokens decay (in ViT's finetuning they do not).
    decay_tokens: bool = True
    layer_decay: LayerDecay = 1.0


OptimizerConfig = Annotated[AdamWConfig | AdanConfig, Field(discriminator="kind")]


class LrScheduleConfig(Table):
    """Linear from 0 over `warmup` steps, then constant, or half a cosine down to `final` x lr."""

    kind: Literal["constant", "cosine"] = "constant"
    warmup: CountOrZero = 0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    # The share of lr in steps after training.schedule_steps; 0: `final`.
    tail: NonNegative = 0.0
    # The first step has lr 0, as a ramp step / warmup gives it (MaskDiT). warmup: where there is a
    # warm-up (MaskDM, U-ViT).
    from_zero: bool | Literal["warmup"] = False

    @property
    def starts_at_zero(self) -> bool:
        """Whether the first step has lr 0."""
        return self.from_zero is True or (self.from_zero == "warmup" and self.warmup > 0)


def _ramp_or_none(value: object) -> object:
    return {True: "ramp", False: "none"}[value] if isinstance(value, bool) else value


class EmaConfig(Table):
    # One set of EMA weights per decay, each in its own file. The first is the default elsewhere.
    decays: Annotated[tuple[Beta, ...], Field(min_length=1)] = (0.9999,)
    # Decays of the first steps, so that short runs have usable EMA weights. ramp: at most
    # (1+k)/(10+k) after k steps. power: copies for 101 steps, then at most 1 - (k-100)^(-2/3)
    # (ema-pytorch, MaskDM). true and false are short for ramp and none.
    warmup: Annotated[Literal["none", "ramp", "power"], BeforeValidator(_ramp_or_none)] = "none"

    # Of the EMA decoder whose output a loss term may have as its target (MC-DiT).
    teacher_decay: Beta = 0.999

    @property
    def names(self) -> tuple[str, ...]:
        """What the weights are called in files, messages and --ema, in the order of `decays`."""
        return tuple(f"{decay:g}" for decay in self.decays)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"decays {list(self.decays)} repeat a value")
        return self


class CheckpointConfig(Table):
    every: Count = 10_000
    keep_last: Count = 3
    # Checkpoints at multiples of this step are kept for good; 0: none are.
    keep_every: CountOrZero = 0


class LogConfig(Table):
    every: Count = 100
    tensorboard: bool = False
    wandb: bool = False


class ValidationConfig(Table):
    """Held-out loss at fixed times and noise. 0: never."""

    every: CountOrZero = 2_500
    batch_size: BatchSize = 64


class PreviewConfig(Table):
    """A small grid from EMA weights with fixed seeds. 0: never."""

    every: CountOrZero = 10_000
    per_class: BatchSize = 2
    max_classes: BatchSize = 10
    steps: SamplingSteps = 25
