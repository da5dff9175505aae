"""How time and class enter the network: three conditionings, each of which makes its parts.

A conditioning decides two things: how blocks and heads are modulated, and which tokens stand in
front of the patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from mdt_cli.core.model.blocks import Block, Modulation, PlainBlock, init_linears
from mdt_cli.core.model.embeddings import (
    ClassTokens,
    ExtraTokens,
    LabelEmbedding,
    Start,
    TimeEmbedding,
)
from mdt_cli.core.model.heads import Head, PatchEmbedding, PlainHead
from mdt_cli.core.model.positions import AttentionPositions
from mdt_cli.core.model.shape import CLASSIC, BlockStyle


@dataclass(frozen=True, eq=False)
class Embeddings:
    """`time` and `label` add up to the vector that modulates; `extras` are tokens."""

    time: TimeEmbedding | None = None
    label: LabelEmbedding | None = None
    extras: ExtraTokens | ClassTokens | None = None

    def initialise(self) -> None:
        """DiT's initial weights of the vector, from torch's RNG; tokens start with theirs."""
        if self.time is not None:
            for linear in (self.time.fc1, self.time.fc2):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
        if self.label is not None:
            nn.init.normal_(self.label.table.weight, std=0.02)


class Conditioning(ABC):
    """Makes what depends on the condition: embeddings, blocks, heads and their initial weights."""

    @abstractmethod
    def embeddings(self) -> Embeddings:
        """New embeddings of time and class."""

    @abstractmethod
    def block(
        self, size: int, num_heads: int, positions: AttentionPositions, skip: bool
    ) -> Block | PlainBlock:
        """A new block whose attention gets these positions; `skip`: it fuses a skip."""

    @abstractmethod
    def modulation(self, size: int, depth: int) -> Modulation | None:
        """What modulates a stack of `depth` blocks; None where nothing does."""

    @abstractmethod
    def head(self, size: int, out_size: int) -> Head | PlainHead:
        """A new map from tokens of `size` to `out_size` values each."""

    @abstractmethod
    def initialise(self, stacks: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        """Draw the initial weights of all blocks, then those of the heads, from torch's RNG."""

    @abstractmethod
    def initialise_patches(self, patches: PatchEmbedding) -> None:
        """Draw what the patch embedding starts with elsewhere than in DiT; it has DiT's already."""


@dataclass(frozen=True)
class AdaLNZero(Conditioning):
    """Time and class modulate every block, which starts as the identity (Peebles & Xie 2023)."""

    hidden_size: int
    mlp_ratio: float
    num_classes: int
    zero_null: bool
    style: BlockStyle = CLASSIC
    class_tokens: int = 0
    class_tokens_at: int = 0

    def embeddings(self) -> Embeddings:
        time, label, extras = TimeEmbedding(self.hidden_size), None, None
        if self.num_classes:
            label = LabelEmbedding(self.num_classes, self.hidden_size, self.zero_null)
        if self.class_tokens and label is not None:
            extras = ClassTokens(self.hidden_size, self.class_tokens, self.class_tokens_at)
        return Embeddings(time=time, label=label, extras=extras)

    def block(self, size: int, num_heads: int, positions: AttentionPositions, skip: bool) -> Block:
        return Block(size, num_heads, self.mlp_ratio, positions, skip, self.style)

    def modulation(self, size: int, depth: int) -> Modulation:
        return Modulation(self.hidden_size, size, depth, num_chunks=6)

    def head(self, size: int, out_size: int) -> Head:
        return Head(size, out_size, self.hidden_size, self.style)

    def initialise(self, stacks: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        for stack in stacks:
            init_linears(stack)

    def initialise_patches(self, patches: PatchEmbedding) -> None:
        pass


@dataclass(frozen=True)
class InContext(Conditioning):
    """Class and time are tokens in front of the patches, in plain blocks (Bao et al. 2023)."""

    hidden_size: int
    mlp_ratio: float
    num_classes: int
    learned_positions: bool
    style: BlockStyle = CLASSIC
    norm_eps: float = 1e-5

    def embeddings(self) -> Embeddings:
        start: Start = "random" if self.learned_positions else None
        extras = ExtraTokens(self.hidden_size, self.num_classes, True, start)
        return Embeddings(extras=extras)

    def block(
        self, size: int, num_heads: int, positions: AttentionPositions, skip: bool
    ) -> PlainBlock:
        ratio, eps = self.mlp_ratio, self.norm_eps
        return PlainBlock(size, num_heads, ratio, eps, False, positions, skip, self.style)

    def modulation(self, size: int, depth: int) -> None:
        return None

    def head(self, size: int, out_size: int) -> PlainHead:
        return PlainHead(size, out_size, self.norm_eps, self.style)

    def initialise(self, stacks: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        for part in (*stacks, *heads):
            init_linears(part, normal=True)

    def initialise_patches(self, patches: PatchEmbedding) -> None:
        # U-ViT and MaskDM leave the convolution as torch makes it.
        patches.start_as_conv(weight=True)


@dataclass(frozen=True)
class ClassToken(Conditioning):
    """Neither time nor class, but one learned token in front, in plain blocks (He et al. 2022)."""

    hidden_size: int
    mlp_ratio: float
    position: Start
    style: BlockStyle = CLASSIC
    norm_eps: float = 1e-6

    def embeddings(self) -> Embeddings:
        return Embeddings(extras=ExtraTokens(self.hidden_size, 0, False, self.position))

    def block(
        self, size: int, num_heads: int, positions: AttentionPositions, skip: bool
    ) -> PlainBlock:
        ratio, eps = self.mlp_ratio, self.norm_eps
        return PlainBlock(size, num_heads, ratio, eps, True, positions, skip, self.style)

    def modulation(self, size: int, depth: int) -> None:
        return None

    def head(self, size: int, out_size: int) -> PlainHead:
        return PlainHead(size, out_size, self.norm_eps, self.style)

    def initialise(self, stacks: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        for part in (*stacks, *heads):
            init_linears(part)

    def initialise_patches(self, patches: PatchEmbedding) -> None:
        # MAE's code, which LMD's is built on, draws the weight and leaves the bias.
        patches.start_as_conv(weight=False)
