"""Other parts than those of today's recipes fit into the network, and every block is found."""

import traceback
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from mdt_cli.config.load import load_config
from mdt_cli.core.masking.tokens import RandomTokens, TokenSubset
from mdt_cli.core.model.assemble import assemble, conditioning_of
from mdt_cli.core.model.blocks import Block, BlockContext
from mdt_cli.core.model.conditioning import AdaLNZero, Embeddings
from mdt_cli.core.model.embeddings import ExtraTokens
from mdt_cli.core.model.fills import MaskTokenFill
from mdt_cli.core.model.positions import AttentionPositions
from mdt_cli.core.model.route import Route
from mdt_cli.core.model.shape import TransformerShape
from mdt_cli.core.model.transformer import Masked, Transformer
from mdt_cli.core.rng import stream
from mdt_cli.services.build.network import build_network, shape_of

SHAPE, CLASSES = (4, 8, 8), 5
X = torch.randn(2, *SHAPE, dtype=torch.float64, generator=stream("assemble"))
T, Y = torch.tensor([3, 700]), torch.tensor([1, 5])
SUBSET = RandomTokens().draw(2, (4, 4), 0.4, stream("subset"))
SMALL = ("model.patch_size=2", "model.hidden_size=32", "model.num_heads=2")
DECODER = "model.narrow_decoder={depth=2, hidden_size=16, num_heads=2}"


def shape_like(*assignments: str) -> TransformerShape:
    config = load_config(["dit"], [*SMALL, *assignments]).config
    return shape_of(config.model, SHAPE, 4, CLASSES)


def awake(network: Transformer) -> Transformer:
    """In double precision, every parameter random: blocks start as the identity."""
    generator = stream("weights")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.double().eval()


@pytest.mark.parametrize("preset", ["dit", "mdtv2", "maskdit", "uvit", "lmd"])
def test_a_shape_survives_its_flat_form(preset: str) -> None:
    shape = shape_of(load_config([preset], []).config.model, SHAPE, 8, CLASSES)
    assert TransformerShape.from_flat(shape.flat()) == shape
    assert TransformerShape.from_flat({**shape.flat(), "_class_name": "any"}) == shape
    with pytest.raises(KeyError, match="narrow_size"):
        TransformerShape.from_flat({k: v for k, v in shape.flat().items() if k != "narrow_size"})


class Turns(AttentionPositions):
    """Rotary-like: an angle for each token present, zero for extra tokens."""

    def for_pass(self, subset: TokenSubset | None, num_extras: int) -> Tensor:
        angle_N = torch.arange(16, dtype=torch.float64) / 4
        angle_BN = angle_N.expand(2, -1) if subset is None else angle_N[subset.kept_BK]
        return torch.cat([angle_BN.new_zeros(2, num_extras), angle_BN], dim=1)


class TurningBlock(Block):
    """A block that writes its tokens' angles into their first channel."""

    def forward(self, x_BND: Tensor, context: BlockContext) -> Tensor:
        assert context.positions is not None
        turned = torch.cat([x_BND[..., :1] + context.positions.unsqueeze(2), x_BND[..., 1:]], 2)
        return super().forward(turned, context._replace(positions=None))


@dataclass(frozen=True)
class Turning(AdaLNZero):
    def block(self, size: int, num_heads: int, positions: AttentionPositions, skip: bool) -> Block:
        return TurningBlock(size, num_heads, self.mlp_ratio, positions, skip, self.style)


@torch.no_grad()
def test_other_blocks_and_positions_are_parts() -> None:
    shape = shape_like("model.depth=3")
    masked = Masked(Route(1, 2), MaskTokenFill(32))
    network = awake(
        assemble(shape, masked, conditioning=Turning(32, 4, 5, False), positions=Turns())
    )
    seen: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].positions))
    answer = network(X, T, Y, SUBSET).final
    all_BN = Turns().for_pass(None, 0)
    kept_BK = Turns().for_pass(SUBSET, 0)
    for found, wanted in zip(seen, (all_BN, kept_BK, all_BN), strict=True):
        assert torch.equal(found, wanted)
    # Positions travel with their tokens.
    mixed = TokenSubset(SUBSET.kept_BK.flip(1), 16)
    torch.testing.assert_close(network(X, T, Y, mixed).final, answer, rtol=0, atol=1e-10)
    plain = awake(assemble(shape, Masked(Route(1, 2), MaskTokenFill(32))))
    assert not torch.allclose(plain(X, T, Y, SUBSET).final, answer)


@dataclass(frozen=True)
class WithLateTokens(AdaLNZero):
    """Modulated blocks, and class and time as tokens as well, from block `at_block` on."""

    at_block: int = 0

    def embeddings(self) -> Embeddings:
        extras = ExtraTokens(self.hidden_size, self.num_classes, True, True, self.at_block)
        return replace(super().embeddings(), extras=extras)


@pytest.mark.parametrize("at_block", [0, 1, 2])
@torch.no_grad()
def test_extra_tokens_may_enter_at_any_block_of_modulated_ones(at_block: int) -> None:
    masked = Masked(Route(1, 3), MaskTokenFill(32))
    conditioning = WithLateTokens(32, 4, CLASSES, False, at_block=at_block)
    shape = shape_like("model.depth=4", "model.decoder_depth=1")
    network = awake(assemble(shape, masked, conditioning=conditioning))
    lengths: list[int] = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    keep = SUBSET.kept_BK.shape[1]
    for subset, patches in ((None, [16] * 4), (SUBSET, [16, keep, keep, 16])):
        lengths.clear()
        answer = network(X, T, Y, subset).final
        assert lengths == [n + 2 * (i >= at_block) for i, n in enumerate(patches)]
        assert answer.shape == X.shape
        # The class is read in two ways; without that of the vector it still matters.
        network.label, label = None, network.label
        other = (
            (network(X, T, Y, subset).final - network(X, T, Y.flip(0), subset).final).abs().max()
        )
        network.label = label
        assert other > 1e-4


def test_extra_tokens_cannot_cross_a_skip() -> None:
    shape = shape_like("model.depth=4", "model.long_skips=true")
    with pytest.raises(ValueError, match="cannot cross a skip"):
        assemble(shape, conditioning=WithLateTokens(32, 4, CLASSES, False, at_block=1))


class Fuse(nn.Module):
    """Returning tokens beside those that left, mapped back to their width."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, x_BND: Tensor, left_BND: Tensor) -> Tensor:
        return self.linear(torch.cat([x_BND, left_BND], dim=2))


@pytest.mark.parametrize("return_at", [2, 3])
@torch.no_grad()
def test_a_route_that_fuses_runs_in_unmasked_passes_too(return_at: int) -> None:
    masked = Masked(Route(1, return_at), MaskTokenFill(32), fuse=Fuse(32))
    network = awake(assemble(shape_like("model.depth=3"), masked))
    everything = TokenSubset(torch.arange(16).expand(2, -1), 16)
    whole = network(X, T, Y).final
    torch.testing.assert_close(network(X, T, Y, everything).final, whole, rtol=0, atol=1e-11)
    network.fuse.linear.weight.mul_(2)
    assert (network(X, T, Y).final - whole).abs().max() > 1e-3
    assert (network(X, T, Y, SUBSET).final - whole).abs().max() > 1e-3


def test_tokens_return_behind_the_trunk_where_a_narrow_decoder_follows() -> None:
    shape = shape_like("model.depth=3", DECODER)
    with pytest.raises(ValueError, match="behind the last block"):
        assemble(shape, Masked(Route(0, 2), MaskTokenFill(16)))


def test_offsets_have_no_row_for_extra_tokens() -> None:
    shape = shape_like("model.depth=2", "model.relative_bias=true")
    network = assemble(shape, conditioning=WithLateTokens(32, 4, CLASSES, False))
    with pytest.raises(ValueError, match="2 extra tokens have no offset"):
        network(X.float(), T, Y)


@pytest.mark.parametrize(
    ("preset", "assignments"),
    [
        ("mdtv2", ()),
        ("maskdit", (DECODER,)),
        ("lmd", (DECODER, "model.patch_size=2")),
        ("uvit", ()),
    ],
)
@torch.no_grad()
def test_stacks_are_all_blocks_and_every_block_runs_in_one_place(
    preset: str, assignments: tuple[str, ...]
) -> None:
    config = load_config([preset, "size/tiny"], ["model.patch_size=2", *assignments]).config
    network = build_network(config, SHAPE, CLASSES)
    by_name = dict(network.named_modules())
    found = [block for stack in network.stacks().values() for block in stack]
    assert {id(block) for block in found} == {
        id(module) for module in by_name.values() if hasattr(module, "attn")
    }
    for name, stack in network.stacks().items():
        assert stack == ([by_name[name]] if name.endswith(".block") else list(by_name[name]))
    callers: list[bool] = []
    for block in found:
        block.register_forward_pre_hook(
            lambda *_: callers.append(any(f.name == "run_block" for f in traceback.extract_stack()))
        )
    network(X.float(), T, Y, SUBSET if config.masking.is_masked else None)
    assert callers == [True] * len(found)


def guard(module: nn.Module) -> None:
    """Parameters are NaN but within the forward of the module that owns them, as if sharded."""
    for part in module.modules():
        kept = [(p, p.detach().clone()) for p in part.parameters(recurse=False)]

        def gather(*_: object, kept: list[tuple[nn.Parameter, Tensor]] = kept) -> None:
            for parameter, values in kept:
                parameter.data.copy_(values)

        def scatter(*_: object, kept: list[tuple[nn.Parameter, Tensor]] = kept) -> None:
            for parameter, _values in kept:
                parameter.data.fill_(torch.nan)

        part.register_forward_pre_hook(gather)
        part.register_forward_hook(scatter)
        scatter()


@pytest.mark.parametrize(
    ("preset", "assignments"),
    [
        ("mdtv2", ()),
        ("maskdit", (DECODER,)),
        ("mcdit", (DECODER,)),
        ("lmd", (DECODER, "model.patch_size=2")),
        ("uvit", ()),
    ],
)
@torch.no_grad()
def test_no_parameter_is_used_outside_the_forward_of_its_module(
    preset: str, assignments: tuple[str, ...]
) -> None:
    config = load_config([preset, "size/tiny"], ["model.patch_size=2", *assignments]).config
    network = awake(build_network(config, SHAPE, CLASSES))
    subset = SUBSET if config.masking.is_masked else None
    wanted = network(X, T, Y, subset, X.flip(0))
    decoder = network.patch_decoder() if config.masking.has_teacher else None
    taught = None if decoder is None else decoder(X, wanted.condition)
    guard(network)
    found = network(X, T, Y, subset, X.flip(0))
    assert torch.equal(found.final, wanted.final)
    if decoder is not None:
        assert torch.equal(decoder(X, found.condition), taught)


def test_the_answer_has_the_vector_that_modulated() -> None:
    network = awake(build_network(load_config(["dit", "size/tiny"], []).config, SHAPE, CLASSES))
    condition = network(X, T, Y).condition
    assert torch.equal(condition, network.time(T) + network.label(Y))
    tokens = build_network(load_config(["uvit", "size/tiny"], []).config, SHAPE, CLASSES)
    assert tokens(X.float(), T, Y).condition is None


def test_each_conditioning_knows_its_parts() -> None:
    for preset, time, extras in (("dit", True, 0), ("uvit", False, 2), ("lmd", False, 1)):
        shape = shape_of(load_config([preset], []).config.model, SHAPE, 4, CLASSES)
        made = conditioning_of(shape).embeddings()
        assert (made.time is not None) == time
        assert (0 if made.extras is None else made.extras.count) == extras
