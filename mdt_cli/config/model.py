"""`[model]`: the shape of the transformer. Input size, channels and classes come from the cache."""

from typing import Literal, Self

from pydantic import model_validator

from mdt_cli.config.base import (
    Blocks,
    BlocksOrZero,
    NonNegative,
    Positive,
    Table,
    Width,
    WidthOrZero,
)


class NarrowDecoderConfig(Table):
    """A smaller transformer behind the blocks; dropped tokens return in front of it (MaskDiT)."""

    # 0: there is none.
    depth: BlocksOrZero = 0
    hidden_size: Width = 512
    num_heads: Width = 16
    # Subtract its positions where everyone else adds them (LMD).
    subtract_positions: bool = False

    @model_validator(mode="after")
    def _shape_fits(self) -> Self:
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads "
                f"{self.num_heads} and of 4"
            )
        return self


class ModelConfig(Table):
    patch_size: Width = 2
    hidden_size: Width = 384
    depth: Blocks = 12
    num_heads: Width = 6
    mlp_ratio: Positive = 4.0
    # adaln: time and class modulate every block (DiT). tokens: they are tokens themselves, in
    # plain blocks (U-ViT, MaskDM). none: there are no times and classes, but a class token (MAE).
    condition: Literal["adaln", "tokens", "none"] = "adaln"
    # The label "no class": a learned vector (DiT), or zeros (MaskDiT).
    null_label: Literal["learned", "zeros"] = "learned"
    # fixed: sin-cos table. learned: the same table as the start of a parameter (MDT). random: a
    # parameter that starts at random, extra tokens included (U-ViT). none: nothing is added.
    positions: Literal["fixed", "learned", "random", "none"] = "fixed"
    # The class token of condition none has a learned position, which starts at zero (ViT).
    class_token_position: bool = False
    relative_bias: bool = False
    # Queries and keys are rotated by the row and column of their token, in every stack of blocks.
    rope: bool = False
    # layer: LayerNorm. rms: RMSNorm with a learned scale.
    norm: Literal["layer", "rms"] = "layer"
    # RMSNorm with a learned scale on the queries and keys of each head.
    qk_norm: bool = False
    # gelu: two Linear maps. swiglu: gated, two thirds as wide, at the same cost.
    mlp: Literal["gelu", "swiglu"] = "gelu"
    # Width between two linear maps that embed a patch (JiT); 0: one map.
    patch_bottleneck: WidthOrZero = 0
    # A second head behind this many blocks, whose loss the terms with `head = "early"` give, and
    # which internal guidance needs; 0: there is none. Every pass without such a term gets one,
    # the objective with `early_weight`.
    early_head_at: BlocksOrZero = 0
    early_weight: NonNegative = 0.5
    # Copies of the class vector that join the tokens before block `class_tokens_at` (JiT).
    class_tokens: WidthOrZero = 0
    class_tokens_at: BlocksOrZero = 0
    # The last `decoder_depth` blocks form a decoder with learned positions of its own (MDT).
    decoder_depth: BlocksOrZero = 0
    # Mirror-wise skips between the halves of the encoder (MDT v2, as U-ViT).
    long_skips: bool = False
    # Every decoder block also sees the embedded input of all tokens (MDT v2).
    input_skip: bool = False
    narrow_decoder: NarrowDecoderConfig = NarrowDecoderConfig()
    # A 3x3 convolution on the whole output (U-ViT).
    output_conv: bool = False

    @model_validator(mode="after")
    def _shape_fits(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 4, as sin-cos positions need"
            )
        if self.decoder_depth >= self.depth:
            raise ValueError(
                f"decoder_depth {self.decoder_depth} leaves no encoder block of depth {self.depth}"
            )
        if self.long_skips and self.decoder_depth and (self.depth - self.decoder_depth) % 2:
            raise ValueError(
                f"long_skips need an even encoder; depth {self.depth} - decoder_depth "
                f"{self.decoder_depth} = {self.depth - self.decoder_depth} is odd"
            )
        if self.input_skip and not self.decoder_depth:
            raise ValueError("input_skip needs a decoder: set decoder_depth above 0")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        plain = self.condition != "adaln"
        if plain and (self.relative_bias or self.decoder_depth or self.null_label == "zeros"):
            raise ValueError(
                "relative_bias, decoder_depth and null_label zeros belong to condition adaln, "
                f"not {self.condition}"
            )
        if self.class_token_position and (self.condition != "none" or self.positions != "learned"):
            raise ValueError(
                "class_token_position belongs to condition none with positions learned, not "
                f"{self.condition} with {self.positions}: set class_token_position to false"
            )
        if self.class_tokens and plain:
            raise ValueError(
                f"class_tokens belong to condition adaln, not {self.condition}: set class_tokens "
                "to 0"
            )
        if self.narrow_decoder.depth and (self.decoder_depth or self.input_skip):
            raise ValueError(
                "one decoder at a time: set narrow_decoder.depth or decoder_depth to 0"
            )
        return self

    @model_validator(mode="after")
    def _new_parts_fit(self) -> Self:
        if self.positions == "none" and not (self.rope or self.relative_bias):
            raise ValueError(
                "positions none leaves tokens without any position: set rope to true, or "
                "positions to fixed"
            )
        if self.relative_bias and self.rope:
            raise ValueError(
                "rope and relative_bias say the same in two ways: set one of them to false"
            )
        if self.relative_bias and self.class_tokens:
            raise ValueError(
                "class_tokens have no offset for relative_bias: set relative_bias to false"
            )
        narrow = self.narrow_decoder
        heads = {"": (self.hidden_size, self.num_heads)}
        if narrow.depth:
            heads["narrow_decoder."] = (narrow.hidden_size, narrow.num_heads)
        for where, (size, count) in heads.items():
            if self.rope and size // count % 4:
                raise ValueError(
                    f"rope needs heads of a multiple of 4 channels; {where}hidden_size {size} / "
                    f"{where}num_heads {count} = {size // count}"
                )
        if self.early_head_at >= self.depth:
            raise ValueError(
                f"early_head_at {self.early_head_at} is not in front of the last of {self.depth} "
                "blocks"
            )
        if self.class_tokens_at and not self.class_tokens:
            raise ValueError("class_tokens_at needs class_tokens above 0")
        if self.class_tokens_at >= self.depth:
            raise ValueError(
                f"class_tokens_at {self.class_tokens_at} is behind the last of {self.depth} blocks"
            )
        if self.class_tokens_at and (self.long_skips or self.input_skip):
            raise ValueError(
                "tokens that enter between blocks cannot cross a skip: set class_tokens_at to 0"
            )
        return self
