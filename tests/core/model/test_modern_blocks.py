"""Modern blocks: rotary positions, RMSNorm, SwiGLU, query and key norms, class tokens."""

import itertools

import pytest
import torch
from torch import Tensor

from mdt_cli.config.load import load_config
from mdt_cli.core.masking.tokens import RandomTokens, TokenSubset
from mdt_cli.core.model.attention import Attention, rotated
from mdt_cli.core.model.embeddings import ClassTokens
from mdt_cli.core.model.heads import PatchEmbedding
from mdt_cli.core.model.mlp import GatedMlp, Mlp, make_mlp
from mdt_cli.core.model.positions import NoPositions, Rotary, rotary_turns
from mdt_cli.core.model.shape import BlockStyle
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.network import build_network

SHAPE, CLASSES = (4, 8, 8), 5
X = torch.randn(2, *SHAPE, dtype=torch.float64, generator=stream("modern"))
T, Y = torch.tensor([3, 700]), torch.tensor([1, 5])
SUBSET = RandomTokens().draw(2, (4, 4), 0.4, stream("subset"))
SMALL = (
    *("model.patch_size=2", "model.hidden_size=32", "model.num_heads=2", "model.depth=8"),
    "model.narrow_decoder.hidden_size=16",
    "model.narrow_decoder.num_heads=2",
)
MODERN = (
    *("model.norm=rms", "model.mlp=swiglu", "model.qk_norm=true", "model.rope=true"),
    *("model.patch_bottleneck=8", "model.relative_bias=false"),
)


def network_of(preset: str, *assignments: str) -> Transformer:
    """In double precision, with random weights in every parameter."""
    loaded = load_config([preset], [*SMALL, *assignments])
    network = build_network(loaded.config, SHAPE, CLASSES).double().eval()
    generator = stream("weights")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def test_rotation_is_complex_multiplication() -> None:
    """Su et al. 2021, eq. 16: channel pairs as complex numbers, times exp(i m theta)."""
    turns, x = rotary_turns(3, 5, 16), torch.randn(2, 3, 15, 16, generator=stream("x"))
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    for token, (row, column) in enumerate(itertools.product(range(3), range(5))):
        angle = torch.tensor(
            [place * 10000 ** (-4 * i / 16) for place in (row, column) for i in range(4)]
        )
        wanted = torch.view_as_real(pairs[:, :, token] * torch.polar(torch.ones(8), angle))
        found = rotated(x, turns)[:, :, token]
        torch.testing.assert_close(found, wanted.flatten(-2), rtol=0, atol=1e-6)


def test_products_of_rotated_tokens_depend_on_offsets_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=stream("qk"))
    turns = rotary_turns(6, 7, 8).double()
    scores = rotated(q.expand(1, 1, 42, 8), turns) @ rotated(k.expand(1, 1, 42, 8), turns).mT
    grid = scores.view(6, 7, 6, 7)
    torch.testing.assert_close(grid[0, 1, 2, 4], grid[3, 2, 5, 5], rtol=0, atol=1e-6)
    assert abs(grid[0, 1, 2, 4] - grid[0, 1, 4, 2]) > 1e-3


def test_extra_tokens_are_not_turned() -> None:
    positions, x = Rotary((4, 4), 8), torch.randn(2, 1, 18, 8, generator=stream("extras"))
    turned = rotated(x, positions.for_pass(None, 2))
    assert torch.equal(turned[:, :, :2], x[:, :, :2])
    torch.testing.assert_close(turned[:, :, 2:], rotated(x[:, :, 2:], positions.turns_N2C))
    kept = rotated(x[:, :, : 2 + SUBSET.kept_BK.shape[1]], positions.for_pass(SUBSET, 2))
    assert torch.equal(kept[:, :, :2], x[:, :, :2])
    wanted = rotated(x[:, :, 2 : 2 + SUBSET.kept_BK.shape[1]], positions.turns_N2C[SUBSET.kept_BK])
    assert torch.equal(kept[:, :, 2:], wanted)


def test_attention_with_query_and_key_norms_by_its_equation() -> None:
    attention = Attention(16, 2, NoPositions(), qk_norm=True).double()
    assert attention.q_norm is not None
    assert attention.k_norm is not None
    with torch.no_grad():
        attention.q_norm.weight.uniform_(0.5, 2, generator=stream("q"))
        attention.k_norm.weight.uniform_(0.5, 2, generator=stream("k"))
    x = torch.randn(2, 5, 16, dtype=torch.float64, generator=stream("tokens"))
    q, k, v = attention.qkv(x).view(2, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)

    def rms(values: Tensor, scale: Tensor) -> Tensor:
        return values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale

    q, k = rms(q, attention.q_norm.weight), rms(k, attention.k_norm.weight)
    mixed = ((q @ k.mT) / 8**0.5).softmax(-1) @ v
    wanted = attention.proj(mixed.transpose(1, 2).reshape(2, 5, 16))
    torch.testing.assert_close(attention(x, None), wanted, rtol=0, atol=1e-12)


def test_a_gated_mlp_by_its_equation_and_its_cost() -> None:
    gated = make_mlp(48, 192, BlockStyle(mlp="swiglu"), gelu="tanh")
    assert isinstance(gated, GatedMlp)
    x = torch.randn(3, 48, generator=stream("mlp"))
    first, second = gated.fc1(x)[:, :128], gated.fc1(x)[:, 128:]
    wanted = gated.fc2(first * first.sigmoid() * second)
    torch.testing.assert_close(gated(x), wanted, rtol=0, atol=1e-6)
    plain = Mlp(48, 192)
    weights = [sum(p.numel() for p in m.parameters() if p.dim() == 2) for m in (gated, plain)]
    assert weights[0] == weights[1]


def test_a_bottleneck_is_two_linear_maps() -> None:
    embed, x = PatchEmbedding(4, 2, 32, 6), X.float()
    assert embed.widen is not None
    assert embed.conv.bias is None
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(2, 16, 16)
    wanted = embed.widen(patches @ embed.conv.weight.view(6, 16).t())
    torch.testing.assert_close(embed(x), wanted, rtol=0, atol=1e-6)


RECIPES = ("dit", "mdt", "mdtv2", "maskdit", "mcdit", "drop", "tread", "deferred", "maskdm", "lmd")


@pytest.mark.parametrize("preset", [*RECIPES, "uvit"])
@torch.no_grad()
def test_every_route_gathers_the_positions_of_kept_tokens(preset: str) -> None:
    """Keeping all tokens equals the dense pass; the order of kept tokens does not matter."""
    shuffled = ("masking.selector={kind='random'}",) if preset == "maskdm" else ()
    table = () if preset in ("maskdm", "uvit", "lmd") else ("model.positions=none",)
    network = network_of(preset, *MODERN, *table, *shuffled)
    if network.route is None:
        return
    dense = network(X, T, Y).final
    everything = TokenSubset(torch.arange(16).expand(2, -1), 16)
    if network.fuse is None:
        kept = network(X, T, Y, everything, X).final
        torch.testing.assert_close(kept, dense, rtol=0, atol=1e-10)
    masked = network(X, T, Y, SUBSET, X).final
    flipped = TokenSubset(SUBSET.kept_BK.flip(1), 16)
    torch.testing.assert_close(network(X, T, Y, flipped, X).final, masked, rtol=0, atol=1e-10)
    assert not torch.allclose(masked, dense, atol=1e-3)


@pytest.mark.parametrize("at_block", [0, 2])
@torch.no_grad()
def test_class_tokens_are_copies_of_the_class_vector(at_block: int) -> None:
    network = network_of(
        "maskdit", "model.class_tokens=3", f"model.class_tokens_at={at_block}", *MODERN
    )
    lengths: list[int] = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    dense = network(X, T, Y).final
    assert lengths == [16 + 3 * (i >= at_block) for i in range(8)]
    assert dense.shape == X.shape
    assert isinstance(network.extras, ClassTokens)
    network.extras.positions_ED.zero_()
    assert (network(X, T, Y).final - dense).abs().max() > 1e-5
    assert network(X, T, Y, SUBSET, X).final.shape == X.shape


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["model.relative_bias=true", "model.rope=true"], "say the same in two ways"),
        (["model.positions=none"], "without any position"),
        (["model.rope=true", "model.hidden_size=36", "model.num_heads=6"], "multiple of 4"),
        (["model.class_tokens=2", "model.relative_bias=true"], "no offset"),
        (["model.class_tokens_at=2"], "needs class_tokens"),
        (["model.class_tokens=2", "model.class_tokens_at=12"], "behind the last"),
        (["model.class_tokens=2", "model.condition=tokens"], "belong to condition adaln"),
        (
            ["model.class_tokens=2", "model.class_tokens_at=1", "model.long_skips=true"],
            "cannot cross a skip",
        ),
    ],
)
def test_parts_that_do_not_combine_are_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(MdtError, match=message):
        load_config(["dit"], assignments)


def test_class_tokens_need_classes() -> None:
    config = load_config(["dit"], [*SMALL, "model.class_tokens=2"]).config
    with pytest.raises(MdtError, match="needs classes"):
        build_network(config, SHAPE, 0)
