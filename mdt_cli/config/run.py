"""The configuration of a training run: one table of tables."""

from typing import Self

from pydantic import model_validator

from mdt_cli.config.base import Table
from mdt_cli.config.data import DataConfig
from mdt_cli.config.masking import MaskingConfig, ViewConfig
from mdt_cli.config.model import ModelConfig
from mdt_cli.config.objective import EpsilonConfig, ObjectiveConfig
from mdt_cli.config.sampling import SamplingConfig
from mdt_cli.config.scoring import EvaluationConfig
from mdt_cli.config.training import (
    AdamWConfig,
    CheckpointConfig,
    EmaConfig,
    LogConfig,
    LrScheduleConfig,
    OptimizerConfig,
    PreviewConfig,
    TrainingConfig,
    ValidationConfig,
)


class RunConfig(Table):
    """Every key of a run. Checks that concern several tables are here."""

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = EpsilonConfig()
    masking: MaskingConfig = MaskingConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    optimizer: OptimizerConfig = AdamWConfig()
    lr_schedule: LrScheduleConfig = LrScheduleConfig()
    ema: EmaConfig = EmaConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    validation: ValidationConfig = ValidationConfig()
    preview: PreviewConfig = PreviewConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sampling: SamplingConfig = SamplingConfig()

    @property
    def route(self) -> tuple[int, int]:
        """(first routed block, first block after the route), both counted from the front."""
        depth, masking = self.model.depth, self.masking
        leave = masking.leave_at + (depth if masking.leave_at < 0 else 0)
        restore = masking.restore_at + (depth if masking.restore_at <= 0 else 0)
        return leave, restore

    @property
    def schedule_steps(self) -> int:
        """Steps over which the learning rate and the mask ratio run their course."""
        return self.training.schedule_steps or self.training.steps

    @property
    def scheduled(self) -> tuple[str, ...]:
        """What depends on the number of steps: "learning rate", "mask ratio", both or none."""
        changes = self.masking.is_masked and self.masking.ratio.kind not in ("constant", "uniform")
        cosine = self.lr_schedule.kind == "cosine"
        return (*(("learning rate",) if cosine else ()), *(("mask ratio",) if changes else ()))

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        training, schedule = self.training, self.lr_schedule
        if training.schedule_steps and not self.scheduled:
            raise ValueError(
                "training.schedule_steps has no effect: neither the learning rate nor the mask "
                "ratio depends on the number of steps"
            )
        after = schedule.kind == "cosine" and training.steps > self.schedule_steps
        if schedule.tail and not after:
            raise ValueError(
                "lr_schedule.tail has no effect: no step comes after a cosine; it needs "
                "training.schedule_steps below training.steps"
            )
        if after and not (schedule.tail or schedule.final):
            raise ValueError(
                f"the learning rate is 0 in all steps after training.schedule_steps "
                f"{training.schedule_steps}: set lr_schedule.tail, such as 0.1"
            )
        return self

    @model_validator(mode="after")
    def _route_fits(self) -> Self:
        if not self.masking.is_masked:
            return self
        leave, restore = self.route
        depth, encoder = self.model.depth, self.model.depth - self.model.decoder_depth
        if not 0 <= leave < restore <= depth:
            raise ValueError(
                f"masking.leave_at {self.masking.leave_at} and masking.restore_at "
                f"{self.masking.restore_at} route blocks {leave}..{restore} of depth {depth}: "
                "the route must hold at least one block"
            )
        if self.model.decoder_depth and restore != encoder:
            raise ValueError(
                f"masking.restore_at {self.masking.restore_at} brings tokens back before block "
                f"{restore}, but the decoder (model.decoder_depth {self.model.decoder_depth}) "
                f"starts at block {encoder}: set masking.restore_at to -{self.model.decoder_depth}"
            )
        if self.model.long_skips and (leave, restore) != (0, encoder):
            raise ValueError(
                "masking.leave_at and masking.restore_at cut through model.long_skips: "
                f"route the whole encoder, blocks 0..{encoder}"
            )
        return self

    @model_validator(mode="after")
    def _fill_fits(self) -> Self:
        masking, model = self.masking, self.model
        # The EMA decoder takes its embedding from this fill, which only masked passes have.
        has_clean = masking.is_masked and masking.fill == "clean_patches"
        if masking.has_teacher and not has_clean:
            raise ValueError(
                'teacher targets need a view on kept tokens and masking.fill "clean_patches"'
            )
        if not masking.is_masked:
            return self
        fill, narrow = masking.fill, model.narrow_decoder.depth
        if fill == "interpolator" and not model.decoder_depth:
            raise ValueError(
                'masking.fill "interpolator" needs a decoder: set model.decoder_depth above 0'
            )
        if narrow and self.route[1] != model.depth:
            raise ValueError(
                f"masking.restore_at {masking.restore_at} brings tokens back before the narrow "
                "decoder does: set it to 0"
            )
        if narrow and fill in ("nothing", "input", "interpolator"):
            raise ValueError(
                f'masking.fill "{fill}" does not lead into model.narrow_decoder: choose '
                "mask_token, zeros or clean_patches"
            )
        if fill == "clean_patches" and not narrow:
            raise ValueError(
                'masking.fill "clean_patches" feeds a narrow decoder: set '
                "model.narrow_decoder.depth above 0"
            )
        if fill == "nothing" and self.route[1] != model.depth:
            raise ValueError(
                f'masking.fill "nothing" brings no token back, so masking.restore_at '
                f"{masking.restore_at} has no meaning: set it to 0"
            )
        if fill == "nothing" and model.output_conv:
            raise ValueError('masking.fill "nothing" leaves holes under model.output_conv')
        asks = [term for view in masking.views for term in view.terms if view.tokens == "kept"]
        if fill == "nothing" and any(term.region != "kept" for term in asks):
            raise ValueError(
                'masking.fill "nothing" has no answer for dropped tokens: ask the loss of the '
                'kept ones, terms = [{ region = "kept" }]'
            )
        return self

    @model_validator(mode="after")
    def _condition_fits_objective(self) -> Self:
        timeless = self.objective.kind in ("reconstruction", "classification")
        if self.model.condition == "none" and not timeless:
            raise ValueError(
                'model.condition "none" knows no time, which objective '
                f"{self.objective.kind} needs: set objective.kind to reconstruction, or "
                "model.condition to adaln"
            )
        return self

    @model_validator(mode="after")
    def _latents_fit(self) -> Self:
        generates = self.objective.kind not in ("reconstruction", "classification")
        if self.data.latents == "unscaled" and generates:
            raise ValueError(
                'data.latents "unscaled" is for objectives that generate nothing, not '
                f'{self.objective.kind}: set data.latents to "scaled"'
            )
        return self

    @model_validator(mode="after")
    def _early_head_fits(self) -> Self:
        at, guidance = self.model.early_head_at, self.sampling.guidance
        wanted = any(term.head == "early" for view in self.masking.views for term in view.terms)
        if not at and wanted:
            raise ValueError("a loss term has head early: set model.early_head_at above 0")
        if not at and guidance.kind == "internal":
            raise ValueError("guidance internal needs a network with model.early_head_at above 0")
        if at and self.objective.kind == "classification":
            raise ValueError("a classifier has no early head: set model.early_head_at to 0")
        if self.early_head_is_routed and any(
            term.head == "early" and term.region != "kept"
            for view in self.masking.views
            if view.tokens == "kept"
            for term in view.terms
        ):
            raise ValueError(
                f"model.early_head_at {at} is within the route, where only kept tokens are: set "
                'region to "kept" in the terms with head early'
            )
        return self

    @property
    def early_head_is_routed(self) -> bool:
        """Whether the early head sees the kept tokens alone in a masked pass."""
        leave, restore = self.route
        return self.masking.is_masked and leave < self.model.early_head_at <= restore

    @model_validator(mode="after")
    def _classifier_fits(self) -> Self:
        if self.objective.kind != "classification":
            return self
        model, data = self.model, self.data
        wrong = [
            fault
            for fault, is_there in (
                ('model.condition must be "none"', model.condition != "none"),
                ("model.narrow_decoder.depth must be 0", model.narrow_decoder.depth > 0),
                ("model.output_conv must be false", model.output_conv),
                (
                    'masking.views must be [{ tokens = "all" }]',
                    self.masking.views != (ViewConfig(),),
                ),
                ("data.conditional must be true", not data.conditional),
                ("data.class_dropout must be 0", data.class_dropout > 0),
            )
            if is_there
        ]
        if wrong:
            raise ValueError(
                f"objective.kind classification needs other settings: {', '.join(wrong)}"
            )
        return self

    @model_validator(mode="after")
    def _solver_fits_objective(self) -> Self:
        solver, kind = self.sampling.solver, self.objective.kind
        if kind in ("reconstruction", "classification"):
            return self
        if solver in ("ddpm", "ddim") and kind != "epsilon":
            raise ValueError(
                f'sampling.solver "{solver}" is for the epsilon objective, not {kind}: '
                'set sampling.solver to "heun" or "euler"'
            )
        if (
            isinstance(self.objective, EpsilonConfig)
            and self.sampling.steps > self.objective.num_timesteps
        ):
            raise ValueError(
                f"sampling.steps {self.sampling.steps} is more than "
                f"objective.num_timesteps {self.objective.num_timesteps}"
            )
        return self
