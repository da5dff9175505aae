"""From the [model] and [masking] tables to a network."""

from typing import assert_never

from mdt_cli.config.masking import MaskingConfig
from mdt_cli.config.model import ModelConfig
from mdt_cli.config.objective import ClassificationConfig
from mdt_cli.config.run import RunConfig
from mdt_cli.core.model.assemble import assemble, positions_of
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
from mdt_cli.core.model.route import Route
from mdt_cli.core.model.shape import BlockStyle, DecoderShape, TransformerShape, TrunkShape
from mdt_cli.core.model.transformer import Masked, Transformer
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
    highest = build_mask_ratio(masking).extremes(config.schedule_steps)[1]
    if masking.is_masked and selector.num_kept(grid, highest) < 1:
        raise MdtError(
            f"masking.ratio {highest:g} keeps none of {grid[0] * grid[1]} tokens",
            "lower masking.ratio or model.patch_size",
        )
    shape = shape_of(
        model,
        latent_shape,
        out_channels=channels * build_loss(config.objective).out_multiplier,
        num_classes=num_classes if config.data.conditional else 0,
    )
    if model.class_tokens and not shape.num_classes:
        raise MdtError(
            f"model.class_tokens {model.class_tokens} needs classes, and this run has none",
            "set model.class_tokens=0, or train on a cache with classes and data.conditional=true",
        )
    masked = _build_masked(config, shape) if masking.is_masked else None
    network = assemble(shape, masked, _build_classifier(config, num_classes))
    if isinstance(config.objective, ClassificationConfig) and config.objective.encoder == "frozen":
        network.requires_grad_(False)
        assert network.classifier is not None
        network.classifier.requires_grad_(True)
    return network


def shape_of(
    model: ModelConfig, latent_shape: tuple[int, int, int], out_channels: int, num_classes: int
) -> TransformerShape:
    """The shape that the [model] table gives a network on these latents."""
    narrow = model.narrow_decoder
    return TransformerShape(
        latent_shape=latent_shape,
        out_channels=out_channels,
        num_classes=num_classes,
        patch_size=model.patch_size,
        condition=model.condition,
        zero_null=model.null_label == "zeros",
        output_conv=model.output_conv,
        trunk=TrunkShape(
            hidden_size=model.hidden_size,
            depth=model.depth,
            num_heads=model.num_heads,
            mlp_ratio=model.mlp_ratio,
            positions=model.positions,
            relative_bias=model.relative_bias,
            decoder_depth=model.decoder_depth,
            long_skips=model.long_skips,
            input_skip=model.input_skip,
        ),
        decoder=DecoderShape(
            depth=narrow.depth,
            hidden_size=narrow.hidden_size,
            num_heads=narrow.num_heads,
            subtract_positions=narrow.subtract_positions,
        ),
        style=BlockStyle(model.norm, model.mlp, model.qk_norm, model.rope),
        patch_bottleneck=model.patch_bottleneck,
        class_tokens=model.class_tokens,
        class_tokens_at=model.class_tokens_at,
        class_token_position=model.class_token_position,
        early_head_at=model.early_head_at,
    )


def _build_masked(config: RunConfig, shape: TransformerShape) -> Masked:
    # Fill, then interpolater: the order of the random numbers.
    fill = _build_fill(config.masking, shape)
    interpolator = None
    if config.masking.fill == "interpolator":
        trunk, positions = shape.trunk, positions_of(shape)
        size, heads, ratio = trunk.hidden_size, trunk.num_heads, trunk.mlp_ratio
        interpolator = Interpolator(size, heads, ratio, positions, shape.style)
    return Masked(Route(*config.route), fill, interpolator)


def _build_fill(masking: MaskingConfig, shape: TransformerShape) -> Fill | None:
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
            return MaskTokenFill(shape.width)
        case "clean_patches":
            return PatchesFill(shape.latent_shape[0], shape.patch_size, shape.width)
        case _:
            assert_never(masking.fill)


def _build_classifier(config: RunConfig, num_classes: int) -> PoolHead | None:
    if not isinstance(config.objective, ClassificationConfig):
        return None
    if num_classes < 2:
        raise MdtError(
            "a classifier needs a cache with classes, and this one has none",
            "encode images in a folder for each class, without --unconditional",
        )
    return PoolHead(config.model.hidden_size, num_classes)


def token_counts(config: RunConfig, grid: tuple[int, int]) -> set[int]:
    """The numbers of tokens that the blocks see over a whole run."""
    masking, num_tokens = config.masking, grid[0] * grid[1]
    low, high = build_mask_ratio(masking).extremes(config.schedule_steps)
    selector, points = build_selector(masking, grid), 4 * num_tokens
    kept = {selector.num_kept(grid, low + (high - low) * k / points) for k in range(points + 1)}
    seen = {view.tokens for view in masking.views}
    whole = "all" in seen or masking.restore_at != 0
    return (kept if "kept" in seen else set()) | ({num_tokens} if whole else set())
