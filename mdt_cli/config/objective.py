"""`[objective]`: how noise is added and what the network is asked."""

from typing import Annotated, Literal

from pydantic import Field

from mdt_cli.config.base import Fraction, Positive, Table


class EpsilonConfig(Table):
    """DDPM, learned variance (DiT, MDT) or fixed; `min_snr` weighs the mse (MDT v2)."""

    kind: Literal["epsilon"] = "epsilon"
    num_timesteps: Annotated[int, Field(ge=2)] = 1000
    # linear: 1e-4 to 2e-2. cosine: Nichol & Dhariwal 2021 (MaskDM). scaled_linear: Stable
    # Diffusion's, whose roots rise evenly from 0.00085 to 0.012 (U-ViT).
    betas: Literal["linear", "cosine", "scaled_linear"] = "linear"
    # What the network reads for the first of the times: 0, or 1 as U-ViT counts.
    first_time: Literal[0, 1] = 0
    learned_variance: bool = True
    weighting: Literal["plain", "min_snr"] = "plain"
    min_snr_gamma: Positive = 5.0


class EdmConfig(Table):
    """Karras et al. 2022, table 1: preconditioned denoiser, log-normal sigma."""

    kind: Literal["edm"] = "edm"
    P_mean: float = -1.2
    P_std: Positive = 1.2
    sigma_data: Positive = 0.5


class FlowConfig(Table):
    """Rectified flow: straight path x_t = (1-t) x_0 + t noise."""

    kind: Literal["flow"] = "flow"
    # v: the network predicts the velocity noise - x_0. x: it predicts x_0, and its error is
    # divided by max(t, floor) (JiT).
    predict: Literal["v", "x"] = "v"
    floor: Annotated[float, Field(gt=0, le=1)] = 0.05
    time: Literal["uniform", "logit_normal"] = "logit_normal"
    time_mean: float = 0.0
    time_std: Positive = 1.0
    # Training times t become s t / (1 + (s-1) t); `sampling.shift` does this to the sampler's.
    shift: Positive = 1.0
    # Standard deviation of the noise (JiT: image side / 256).
    noise_scale: Positive = 1.0


class ReconstructionConfig(Table):
    """No noise and no time: hidden latents from visible ones (LMD). There is nothing to sample."""

    kind: Literal["reconstruction"] = "reconstruction"


class ClassificationConfig(Table):
    """Cross-entropy of the class of an image; held-out top-1 and top-5. Nothing to sample."""

    kind: Literal["classification"] = "classification"
    # Share of each label that is spread over all classes.
    label_smoothing: Fraction = 0.0
    # tuned: everything learns. frozen: only the norm and the Linear behind the encoder.
    encoder: Literal["tuned", "frozen"] = "tuned"


ObjectiveConfig = Annotated[
    EpsilonConfig | EdmConfig | FlowConfig | ReconstructionConfig | ClassificationConfig,
    Field(discriminator="kind"),
]
