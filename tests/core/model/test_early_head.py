"""The early head: what it sees, what it costs others, and guidance away from it."""

import pytest
import torch
from torch import Tensor

from mdt_cli.config.load import load_config
from mdt_cli.config.run import RunConfig
from mdt_cli.config.sampling import InternalGuidanceConfig, SamplingConfig
from mdt_cli.core.batch import Answer
from mdt_cli.core.masking.tokens import RandomTokens
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.services.build.masking import build_views
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.sampler import generate

SHAPE, CLASSES, CPU = (4, 8, 8), 5, torch.device("cpu")
X = torch.randn(2, *SHAPE, dtype=torch.float64, generator=stream("early"))
T, Y = torch.tensor([3, 700]), torch.tensor([1, 5])
SUBSET = RandomTokens().draw(2, (4, 4), 0.5, stream("subset"))
SMALL = (
    *("model.patch_size=2", "model.hidden_size=32", "model.num_heads=2", "model.depth=6"),
    *("model.narrow_decoder.hidden_size=16", "model.narrow_decoder.num_heads=2"),
)


def config_of(preset: str, *more: str) -> RunConfig:
    own = ("model.decoder_depth=2", "masking.restore_at=-2") if preset == "mdtv2" else ()
    return load_config([preset], [*SMALL, *own, *more]).config


def network_of(preset: str, *more: str) -> Transformer:
    """In double precision, with random weights in every parameter."""
    network = build_network(config_of(preset, *more), SHAPE, CLASSES).double().eval()
    generator = stream("weights")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


@pytest.mark.parametrize("preset", ["dit", "mdtv2", "maskdit", "uvit", "drop"])
def test_all_other_weights_start_as_without_it(preset: str) -> None:
    starts = []
    for keys in ((), ("model.early_head_at=2",)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            starts.append(
                dict(build_network(config_of(preset, *keys), SHAPE, 5).named_parameters())
            )
    plain, early = starts
    own = {name for name in early if name.startswith("early_head.")}
    assert own
    assert early.keys() - own == plain.keys()
    assert all(torch.equal(plain[name], early[name]) for name in plain)


@pytest.mark.parametrize("preset", ["dit", "mdtv2", "uvit"])
@torch.no_grad()
def test_it_answers_from_the_tokens_behind_its_block(preset: str) -> None:
    """Later blocks do not matter to it, and the final answer does not know it."""
    network = network_of(preset, "model.early_head_at=2")
    answer = network(X, T, Y)
    assert answer.early is not None
    assert answer.early.shape == answer.final.shape
    for parameter in network.blocks[2].parameters():
        parameter.add_(0.1)
    again = network(X, T, Y)
    assert torch.equal(again.early, answer.early)
    assert not torch.allclose(again.final, answer.final, atol=1e-4)
    for parameter in network.blocks[1].parameters():
        parameter.add_(0.1)
    assert not torch.allclose(network(X, T, Y).early, answer.early, atol=1e-4)


@torch.no_grad()
def test_within_a_route_it_answers_at_kept_positions_alone() -> None:
    for preset in ("mdtv2", "maskdit", "drop"):
        network = network_of(preset, "model.early_head_at=2")
        early = network(X, T, Y, SUBSET, X).early
        patches = early.unflatten(3, (4, 2)).unflatten(2, (4, 2)).abs().sum((1, 3, 5)).flatten(1)
        for sample, kept in enumerate(SUBSET.kept_BK):
            assert set(patches[sample].nonzero()[:, 0].tolist()) == set(kept.tolist())
    # Tokens leave behind it: it sees all of them.
    late = network_of("tread", "model.early_head_at=2", "masking.restore_at=-1")
    assert bool((late(X, T, Y, SUBSET).early != 0).all())


@pytest.mark.parametrize(
    ("preset", "at", "terms"),
    [
        ("dit", 2, [["early"]]),
        # A pass on all tokens, and one in which the head lies within the route.
        ("mdtv2", 2, [["early"], ["early-kept"]]),
        ("maskdit", 2, [["early-kept"]]),
        ("tread", 2, [["early"]]),
    ],
)
def test_every_pass_has_a_term_for_it(preset: str, at: int, terms: list[list[str]]) -> None:
    config = config_of(
        preset,
        f"model.early_head_at={at}",
        "masking.restore_at=-2" if preset == "tread" else "model.early_weight=0.5",
    )
    views = build_views(config)
    assert [[t.name for t in view.terms if t.head == "early"] for view in views] == terms
    assert all(view.terms[-1].weight == 0.5 for view in views)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["masking.views=[{tokens='all', terms=[{}, {head='early'}]}]"], "early_head_at above 0"),
        (["sampling.guidance={kind='internal'}"], "needs a network with model.early_head_at"),
        (["model.early_head_at=6"], "not in front of the last"),
        (
            [
                "model.early_head_at=2",
                "masking.views=[{tokens='kept', terms=[{region='kept'}, {head='early'}]}]",
            ],
            "within the route",
        ),
    ],
)
def test_what_cannot_work_is_refused(keys: list[str], message: str) -> None:
    with pytest.raises(MdtError, match=message):
        load_config(["dit"], [*SMALL, *keys])


def stub(x: Tensor, t_B: Tensor, y_B: Tensor | None) -> Answer:
    """Velocities that tell the heads and the classes apart."""
    label = torch.zeros(len(x)) if y_B is None else y_B.float()
    final = 0.3 * x + label.view(-1, 1, 1, 1) * 0.1
    return Answer(final, early=0.5 * x - 0.05 * label.view(-1, 1, 1, 1))


def images(classes: int = CLASSES, **guidance: float) -> Tensor:
    table = InternalGuidanceConfig(**guidance)
    sampling = SamplingConfig(solver="euler", steps=3, guidance=table)
    labels = [1, 4] if classes else None
    return generate(stub, Flow(), sampling, SHAPE, classes, [0, 1], labels, CPU)


def one_step(scale: float, cfg: float) -> Tensor:
    """By hand: both conditions are guided from within, then from each other."""
    sampling = SamplingConfig(solver="euler", steps=1)
    noise = generate(
        lambda x, t, y: Answer(torch.zeros_like(x)),
        Flow(),
        sampling,
        SHAPE,
        CLASSES,
        [0, 1],
        [1, 4],
        CPU,
    )

    def estimate(y: Tensor) -> Tensor:
        answer = stub(noise, torch.ones(2), y)
        assert answer.early is not None
        final, early = noise - answer.final, noise - answer.early
        return early + scale * (final - early)

    own, null = estimate(torch.tensor([1, 4])), estimate(torch.tensor([5, 5]))
    return null + cfg * (own - null)


def test_internal_guidance_composes_with_classifier_free_guidance() -> None:
    for scale, cfg in ((1.0, 1.0), (1.4, 1.0), (1.4, 2.0), (1.0, 2.0)):
        table = InternalGuidanceConfig(scale=scale, cfg_scale=cfg)
        sampling = SamplingConfig(solver="euler", steps=1, guidance=table)
        found = generate(stub, Flow(), sampling, SHAPE, CLASSES, [0, 1], [1, 4], CPU)
        torch.testing.assert_close(found, one_step(scale, cfg), rtol=1e-5, atol=1e-5)


def test_a_scale_of_one_is_no_guidance_and_needs_no_early_head() -> None:
    plain = SamplingConfig(solver="euler", steps=3)
    without = generate(
        lambda x, t, y: Answer(stub(x, t, y).final),
        Flow(),
        plain,
        SHAPE,
        CLASSES,
        [0, 1],
        [1, 4],
        CPU,
    )
    assert torch.equal(images(scale=1.0), without)
    # Outside of its interval as well.
    assert torch.equal(images(scale=2.0, high=1e-9), without)


def test_networks_without_classes_are_guided_from_within() -> None:
    assert not torch.equal(images(0, scale=1.5), images(0, scale=1.0))
