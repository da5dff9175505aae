"""`[model]`: the shape of the transformer. Input size, channels and classes come from the cache."""

from typing import Literal, Self

from pydantic import model_validator

from mdt_cli.config.base import Count, CountOrZero, Positive, Table


class Model(Table):
    patch_size: Count = 2
    hidden_size: Count = 384
    depth: Count = 12
    num_heads: Count = 6
    mlp_ratio: Positive = 4.0
    # fixed: sin-cos table. learned: the same table as the start of a parameter (MDT).
    positions: Literal["fixed", "learned"] = "fixed"
    relative_bias: bool = False
    # The last `decoder_depth` blocks form a decoder with learned positions of its own (MDT).
    decoder_depth: CountOrZero = 0
    # Mirror-wise skips between the halves of the encoder (MDT v2, as U-ViT).
    long_skips: bool = False
    # Every decoder block also sees the embedded input of all tokens (MDT v2).
    input_skip: bool = False

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
        if self.long_skips and (self.depth - self.decoder_depth) % 2:
            raise ValueError(
                f"long_skips need an even encoder; depth {self.depth} - decoder_depth "
                f"{self.decoder_depth} = {self.depth - self.decoder_depth} is odd"
            )
        if self.input_skip and not self.decoder_depth:
            raise ValueError("input_skip needs a decoder: set decoder_depth above 0")
        return self
