"""The shape of a transformer: all that has to be known to build it, training aside."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

Conditioned = Literal["adaln", "tokens", "none"]
PositionTable = Literal["fixed", "learned", "random", "none"]


@dataclass(frozen=True)
class BlockStyle:
    """What every block of a network is made of, its narrow decoder and interpolater included.

    rope: queries and keys are rotated by the position of their token.
    """

    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    qk_norm: bool = False
    rope: bool = False


# The blocks of DiT, and of ViT where nothing modulates.
CLASSIC = BlockStyle()


@dataclass(frozen=True)
class TrunkShape:
    """The blocks. The last `decoder_depth` of them have learned positions of their own (MDT).

    long_skips: block k of the encoder feeds its mirror image (U-ViT). input_skip: each decoder
    block also sees the embedded input (MDT v2). relative_bias: attention adds a learned number per
    offset.
    """

    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float
    positions: PositionTable
    relative_bias: bool
    decoder_depth: int
    long_skips: bool
    input_skip: bool

    @property
    def encoder_depth(self) -> int:
        """Blocks in front of the decoder's."""
        return self.depth - self.decoder_depth


@dataclass(frozen=True)
class DecoderShape:
    """The narrow decoder behind the trunk (MAE, MaskDiT); a depth of 0 means that there is none.

    subtract_positions: its positions are subtracted (LMD).
    """

    depth: int
    hidden_size: int
    num_heads: int
    subtract_positions: bool


@dataclass(frozen=True)
class TransformerShape:
    """`latent_shape` is (channels, height, width); `num_classes` 0: there are no classes.

    condition: how time and class enter (see conditioning.py). zero_null: the label "no class" is
    zeros. output_conv: a 3x3 convolution on the output (U-ViT). patch_bottleneck: channels between
    the two linear maps of the patch embedding, 0 for one map. class_tokens: copies of the class
    vector that join the tokens before block `class_tokens_at`. class_token_position: the class
    token of condition none has a learned position. early_head_at: blocks in front of a second head;
    0: there is none.
    """

    latent_shape: tuple[int, int, int]
    out_channels: int
    num_classes: int
    patch_size: int
    condition: Conditioned
    zero_null: bool
    output_conv: bool
    trunk: TrunkShape
    decoder: DecoderShape
    style: BlockStyle = CLASSIC
    patch_bottleneck: int = 0
    class_tokens: int = 0
    class_tokens_at: int = 0
    class_token_position: bool = False
    early_head_at: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        _, height, width = self.latent_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def width(self) -> int:
        """Channels of the tokens that the head sees, and that dropped tokens return among."""
        return self.decoder.hidden_size if self.decoder.depth else self.trunk.hidden_size

    def flat(self) -> dict[str, Any]:
        """The keys of an exported `config.json`; `from_flat` reads them."""
        trunk, decoder = self.trunk, self.decoder
        return {
            "latent_shape": list(self.latent_shape),
            "out_channels": self.out_channels,
            "num_classes": self.num_classes,
            "patch_size": self.patch_size,
            "hidden_size": trunk.hidden_size,
            "depth": trunk.depth,
            "num_heads": trunk.num_heads,
            "mlp_ratio": trunk.mlp_ratio,
            "condition": self.condition,
            "zero_null": self.zero_null,
            "positions": trunk.positions,
            "relative_bias": trunk.relative_bias,
            "decoder_depth": trunk.decoder_depth,
            "long_skips": trunk.long_skips,
            "input_skip": trunk.input_skip,
            "narrow_depth": decoder.depth,
            "narrow_size": decoder.hidden_size,
            "narrow_heads": decoder.num_heads,
            "narrow_subtract": decoder.subtract_positions,
            "output_conv": self.output_conv,
            **asdict(self.style),
            "patch_bottleneck": self.patch_bottleneck,
            "class_tokens": self.class_tokens,
            "class_tokens_at": self.class_tokens_at,
            "class_token_position": self.class_token_position,
            "early_head_at": self.early_head_at,
        }

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Self:
        """The shape that `flat` wrote; other keys are ignored. KeyError where one is missing.

        What version 0.1 did not write has its default.
        """
        style = {f.name: flat.get(f.name, f.default) for f in fields(BlockStyle)}
        later = (
            *("patch_bottleneck", "class_tokens", "class_tokens_at", "class_token_position"),
            "early_head_at",
        )
        channels, height, width = flat["latent_shape"]
        return cls(
            latent_shape=(channels, height, width),
            out_channels=flat["out_channels"],
            num_classes=flat["num_classes"],
            patch_size=flat["patch_size"],
            condition=flat["condition"],
            zero_null=flat["zero_null"],
            output_conv=flat["output_conv"],
            trunk=TrunkShape(
                hidden_size=flat["hidden_size"],
                depth=flat["depth"],
                num_heads=flat["num_heads"],
                mlp_ratio=flat["mlp_ratio"],
                positions=flat["positions"],
                relative_bias=flat["relative_bias"],
                decoder_depth=flat["decoder_depth"],
                long_skips=flat["long_skips"],
                input_skip=flat["input_skip"],
            ),
            decoder=DecoderShape(
                depth=flat["narrow_depth"],
                hidden_size=flat["narrow_size"],
                num_heads=flat["narrow_heads"],
                subtract_positions=flat["narrow_subtract"],
            ),
            style=BlockStyle(**style),
            **{name: flat.get(name, 0) for name in later},
        )
