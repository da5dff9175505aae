"""From the [model] and [masking] tables to a network."""

from typing import Any, assert_never

from mdt_cli.config.masking import MaskingConfig
from mdt_cli.config.model import ModelConfig
from mdt_cli.config.objective import ClassificationConfig
from mdt_cli.config.run import RunConfig
from mdt_cli.core.model.fills import (
    Fill,
    InputFill,
    Interpolator,
    MaskTokenFill,
    MeanFill,
    PatchesFill,
    ZerosFill,
)
from mdt_cli.core.model.heads import PoolHead
from mdt_cli.core.model.positions import num_offsets
from mdt_cli.core.model.transformer import NO_CONDITION_EPS, Transformer
from mdt_cli.errors import MdtError
from mdt_cli.services.build.masking import build_selector
from mdt_cli.services.build.objective import build_loss
from mdt_cli.services.build.ratio import build_mask_ratio


def build_network(
    config: RunConfig, latent_shape: tuple[int, int, int], num_classes: int
) -> Transformer:
    """The network of a run; whatever only training needs (fill, interpolater) is in it.

    Raises MdtError where the latents cannot be cut into patches, a mask would keep nothing or a
    classifier has no classes.
    """
    model, masking = config.model, config.masking
    channels, height, width = latent_shape
    if height % model.patch_size or width % model.patch_size:
        raise MdtError(
            f"latents of {height}x{width} cannot be cut into patches of {model.patch_size}",
            "set model.patch_size to a divisor of both",
        )
    grid = (height // model.patch_size, width // model.patch_size)
    selector = build_selector(masking, grid)
    highest = build_mask_ratio(masking).extremes(config.training.steps)[1]
    if masking.is_masked and selector.num_kept(grid, highest) < 1:
        raise MdtError(
            f"masking.ratio {highest:g} keeps none of {grid[0] * grid[1]} tokens",
            "lower masking.ratio or model.patch_size",
        )
    out_channels = channels * build_loss(config.objective).out_multiplier
    network = Transformer(
        latent_shape=latent_shape,
        out_channels=out_channels,
        num_classes=num_classes if config.data.conditional else 0,
        **network_shape(model),
        route=config.route if masking.is_masked else None,
        fill=_build_fill(masking, model, channels) if masking.is_masked else None,
        interpolator=_build_interpolator(masking, model, latent_shape),
        classifier=_build_classifier(config, num_classes),
    )
    if isinstance(config.objective, ClassificationConfig) and config.objective.encoder == "frozen":
        network.requires_grad_(False)
        assert network.classifier is not None
        network.classifier.requires_grad_(True)
    return network


def network_shape(model: ModelConfig) -> dict[str, Any]:
    """The keyword arguments of `Transformer` that the model table decides."""
    return {
        "patch_size": model.patch_size,
        "hidden_size": model.hidden_size,
        "depth": model.depth,
        "num_heads": model.num_heads,
        "mlp_ratio": model.mlp_ratio,
        "condition": model.condition,
        "zero_null": model.null_label == "zeros",
        "positions": model.positions,
        "relative_bias": model.relative_bias,
        "decoder_depth": model.decoder_depth,
        "long_skips": model.long_skips,
        "input_skip": model.input_skip,
        "narrow_depth": model.narrow_decoder.depth,
        "narrow_size": model.narrow_decoder.hidden_size,
        "narrow_heads": model.narrow_decoder.num_heads,
        "narrow_subtract": model.narrow_decoder.subtract_positions,
        "output_conv": model.output_conv,
    }


def _build_fill(masking: MaskingConfig, model: ModelConfig, channels: int) -> Fill | None:
    narrow = model.narrow_decoder
    size = narrow.hidden_size if narrow.depth else model.hidden_size
    match masking.fill:
        case "nothing":
            return None
        case "zeros":
            return ZerosFill()
        case "mean":
            return MeanFill()
        case "input":
            return InputFill()
        case "mask_token" | "interpolator":
            return MaskTokenFill(size)
        case "clean_patches":
            return PatchesFill(channels, model.patch_size, size)
        case _:
            assert_never(masking.fill)


def _build_interpolator(
    masking: MaskingConfig, model: ModelConfig, latent_shape: tuple[int, int, int]
) -> Interpolator | None:
    if not masking.is_masked or masking.fill != "interpolator":
        return None
    grid = (latent_shape[1] // model.patch_size, latent_shape[2] // model.patch_size)
    num_biases = num_offsets(*grid) if model.relative_bias else 0
    return Interpolator(model.hidden_size, model.num_heads, model.mlp_ratio, num_biases)


def _build_classifier(config: RunConfig, num_classes: int) -> PoolHead | None:
    if not isinstance(config.objective, ClassificationConfig):
        return None
    if num_classes < 2:
        raise MdtError(
            "a classifier needs a cache with classes, and this one has none",
            "encode images in a folder for each class, without --unconditional",
        )
    return PoolHead(config.model.hidden_size, num_classes, NO_CONDITION_EPS)


def token_counts(config: RunConfig, grid: tuple[int, int]) -> set[int]:
    """The numbers of tokens that the blocks see over a whole run."""
    masking, num_tokens = config.masking, grid[0] * grid[1]
    low, high = build_mask_ratio(masking).extremes(config.training.steps)
    selector, points = build_selector(masking, grid), 4 * num_tokens
    kept = {selector.num_kept(grid, low + (high - low) * k / points) for k in range(points + 1)}
    seen = {view.tokens for view in masking.views}
    whole = "all" in seen or masking.restore_at != 0
    return (kept if "kept" in seen else set()) | ({num_tokens} if whole else set())
