"""Loss terms of several targets: MC-DiT's against a restatement, and who gets a gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mdt_cli.config.load import load_config
from mdt_cli.core.batch import Answer, Batch, Condition
from mdt_cli.core.masking.tokens import RandomTokens
from mdt_cli.core.model.adapters.dit import to_official
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.objectives.losses import normalised_patches
from mdt_cli.core.objectives.training_step import sum_terms, term_losses
from mdt_cli.core.optim.ema import AveragedModule
from mdt_cli.core.rng import stream
from mdt_cli.services.build.masking import build_views
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.objective import build_loss
from tests.reference.clean_context import four_terms, named
from tests.reference.diffusion import normalised, patches_of

SMALL = (
    "model.depth=2",
    "model.hidden_size=32",
    "model.num_heads=4",
    "model.narrow_decoder={depth=2, hidden_size=16, num_heads=2}",
)
CONFIG = load_config(["mcdit"], list(SMALL)).config
VIEW, LOSS = build_views(CONFIG)[0], build_loss(CONFIG.objective)
CLEAN, NOISE = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64, generator=stream("terms"))
SIGMA = torch.tensor([0.2, 0.9, 6.0], dtype=torch.float64)
# The last has no class.
Y = torch.tensor([1, 4, 5])
SUBSET = RandomTokens().draw(3, (4, 4), 0.5, stream("mask"))


@pytest.fixture
def network() -> Transformer:
    return random_weights(build_network(CONFIG, (4, 8, 8), 5), 0)


def random_weights(network: Any, seed: int) -> Any:
    with torch.no_grad():
        for parameter in network.parameters():
            drawn = torch.randn(parameter.shape, generator=stream("w", seed)) * 0.2
            parameter.copy_(drawn)
    return network.double()


@pytest.fixture
def teacher(network: Transformer) -> AveragedModule:
    """An average that is far from what it follows."""
    averaged = AveragedModule(network.patch_decoder(), 0.999)
    random_weights(averaged.module, 1)
    return averaged


def losses(network: Transformer, teacher: AveragedModule) -> list[Tensor]:
    def teach(x: Tensor, c: Tensor | None) -> Tensor:
        answer: Tensor = teacher.module(x, c)
        return answer

    # Times stay float64, so that both sides of a comparison read the same numbers.
    def run(x: Tensor, t: Tensor, *rest: Any) -> Answer:
        answer: Answer = network(x, t, *rest)
        return answer

    batch = Batch(CLEAN, SIGMA, NOISE, Condition(Y), SUBSET)
    return term_losses(run, LOSS, VIEW, batch, 2, teach)


def plain_weights(network: Transformer, decoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors under MaskDiT's names, with the decoder's parts replaced."""
    unmasked = load_config(["mcdit", "mcdit-finetune"], list(SMALL)).config
    copy = build_network(unmasked, (4, 8, 8), 5).double()
    ours = dict(network.named_parameters()) | {
        ("fill." + name if name.startswith("patches.") else name): tensor
        for name, tensor in decoder.items()
    }
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            parameter.copy_(ours[name])
    embedding = (ours["fill.patches.conv.weight"], ours["fill.patches.conv.bias"])
    return {k: v.detach() for k, v in named(to_official(copy), embedding).items()}


def test_the_four_terms_of_mcdit(network: Transformer, teacher: AveragedModule) -> None:
    got = losses(network, teacher)
    wanted = four_terms(
        plain_weights(network, {}),
        plain_weights(network, teacher.tensors),
        (4, 2),
        2,
        CLEAN,
        NOISE,
        SIGMA.tolist(),
        Y,
        SUBSET.kept_BK.tolist(),
    )
    assert [term.weight for term in VIEW.terms] == [1.0, 0.1, 0.1, 0.05]
    for ours, plain in zip(got, wanted.values(), strict=True):
        assert ours.tolist() == pytest.approx(plain, rel=1e-4)
    # Four different things, none of them close to nothing.
    assert min(min(plain) for plain in wanted.values()) > 1e-3


def test_averaged_branches_get_no_gradient(network: Transformer, teacher: AveragedModule) -> None:
    terms = losses(network, teacher)
    sum_terms(VIEW, terms).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_a_teacher_is_a_constant_for_the_gradient(
    network: Transformer, teacher: AveragedModule
) -> None:
    """Also for the condition, which is the trained network's own."""
    terms = losses(network, teacher)
    names = [name for name, _ in network.named_parameters()]
    flowing = torch.autograd.grad((terms[2] + terms[3]).sum(), list(network.parameters()))
    # The same squares with targets that were computed before.
    objective = LOSS.diffusion
    assert objective is not None
    noisy = objective.add_noise(CLEAN, NOISE, SIGMA)
    x, t = objective.network_input(noisy, SIGMA)
    with torch.no_grad():
        c = network(x, t, Y).condition
        targets = [
            objective.denoised(teacher.module(fed, c).float(), seen, SIGMA)
            for fed, seen in ((x, noisy), (2 * CLEAN, CLEAN))
        ]
    output = network(x, t, Y, SUBSET, 2 * CLEAN).final
    estimate = objective.denoised(output.float(), noisy, SIGMA)
    kept = ~SUBSET.dropped_BN.view(3, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    squares = sum(((estimate - target).square() * kept).sum() for target in targets)
    # 8 of 16 patches are kept: 8 x 16 values each.
    fixed = torch.autograd.grad(squares / 128, list(network.parameters()))
    for name, one, other in zip(names, flowing, fixed, strict=True):
        # Answers pass through float32.
        assert (one - other).abs().max() < 1e-5 * other.abs().max(), name


def test_the_average_follows_its_decoder_alone(network: Transformer) -> None:
    averaged = AveragedModule(network.patch_decoder(), 0.75)
    before = {name: tensor.clone() for name, tensor in averaged.tensors.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    averaged.update()
    for name, tensor in averaged.tensors.items():
        torch.testing.assert_close(tensor, before[name] + 0.25)
    parts = {name.split(".")[0] for name in averaged.tensors}
    assert parts == {"patches", "narrow", "head"}


@pytest.mark.parametrize("patch", [2, 4])
def test_normalised_patches_one_by_one(patch: int) -> None:
    images = torch.randn(2, 3, 8, 8, generator=stream("patches"), dtype=torch.float64)
    # A flat patch has no variance: it becomes zeros, not NaN.
    images[0, :, :patch, :patch] = 3.0
    got = normalised_patches(images, patch)
    for image, ours in zip(images, got, strict=True):
        pairs = zip(patches_of(image, patch), patches_of(ours, patch), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(other, normalised(one), rtol=1e-10, atol=1e-12)
    assert got[0, :, :patch, :patch].abs().max() == 0
    assert got[1].mean().abs() < 1e-12
