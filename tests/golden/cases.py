"""What the golden numbers are numbers of, by our code: outputs, losses and parameter counts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mdt_cli.config.load import load_config
from mdt_cli.core.batch import Answer, Batch, Condition
from mdt_cli.core.levels import Denoise, LevelOptions, edm_levels
from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.training_step import View, term_losses, view_loss
from mdt_cli.core.sampling.ddpm import Chain
from mdt_cli.core.sampling.guidance import Channels, Scale, constant, guided, power_cosine
from mdt_cli.core.sampling.ode import heun
from mdt_cli.services.build.masking import build_views
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.objective import build_loss, diffusion_of
from tests.golden.networks import Net, config_of
from tests.golden.numbers import SIZES
from tests.golden.synthetic import blocks, latents, subset, values

T, Y, NULL = torch.tensor([10, 900]), torch.tensor([3, 7]), torch.tensor([1000, 1000])
LOSS_T, LOSS_Y = torch.tensor([0, 60, 900]), torch.tensor([3, 7, 999])
SIGMA = torch.tensor([0.3, 5.0])
PIXELS, MODES = values((2, 3, 64, 64), 5, 4.0), values((2, 4, 28, 28), 6, 4.0)
START = values((2, 4, 32, 32), 4, 3.4641016)
VISIBLE, MODE_SUBSET = blocks((0, 5), (3, 12)), subset(2, 29, 49)
STEPS = (100, 249)
# JiT's own inputs: official times run from noise (0) to image (1) and are read as they are.
JIT_IMAGES, JIT_NOISE = values((3, 3, 64, 64), 2, 4.0), values((3, 3, 64, 64), 3, 4.0)
JIT_T, JIT_START = torch.tensor([0.95, 0.5, 0.01]), values((2, 3, 64, 64), 4, 3.4641016)


def patchify(image: Tensor, patch: int) -> Tensor:
    """[B, N, p p C], channels fastest."""
    cut = image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def kept_patches(image: Tensor) -> Tensor:
    return VISIBLE.gather(patchify(image, 4))


def guided_by(
    main: Denoise, reference: Denoise, scale: Scale, channels: Channels = "all"
) -> Denoise:
    """Two denoisers that are asked one after the other."""
    both = {"own": main, "null": reference}

    def ask(x: Tensor, t: Tensor, names: Sequence[str]) -> dict[str, tuple[Tensor, None]]:
        return {name: (both[name](x, t), None) for name in names}

    return lambda x, t: guided(ask, scale, channels)(x, t)[0]


def guided_pair(net: Net, scale: float, power: float | None) -> Tensor:
    """Both halves as official code returns them: guided channels shared, the rest each half's."""
    at = constant(scale) if power is None else power_cosine(scale, power, lambda t: t / 1000)
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for x, time, label in zip(latents(1).split(1), T.tolist(), Y.tolist(), strict=True):

        def conditional(x: Tensor, t: Tensor, y: int = label) -> Tensor:
            return net(x, t, torch.tensor([y]), None)

        def null(x: Tensor, t: Tensor) -> Tensor:
            return net(x, t, NULL[:1], None)

        t = torch.tensor([time])
        merged = guided_by(conditional, null, at, "first3")(x, t)
        halves[0].append(merged)
        halves[1].append(torch.cat([merged[:, :3], null(x, t)[:, 3:]], 1))
    return torch.cat(halves[0] + halves[1])


def denoiser(net: Net, y: Tensor, kept: TokenSubset | None = None) -> Denoise:
    diffusion = diffusion_of(build_loss(config_of("maskdit").objective))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        scaled, read = diffusion.network_input(x, t)
        return diffusion.denoised(net(scaled, read, y, kept), x, t)

    return denoise


def guided_denoiser(net: Net) -> Denoise:
    return guided_by(denoiser(net, Y), denoiser(net, NULL), constant(1.5))


def ddpm_step(net: Net, part: int) -> Tensor:
    """Mean (0) or log variance (1) of two steps of the chain of 250."""
    objective = Epsilon()
    chain, found = Chain(objective.chain.alphas_cumprod, 250), []
    for x, step, label in zip(latents(1).split(1), STEPS, Y.tolist(), strict=True):
        t = torch.tensor([chain.indices[step]])
        output = net(x, t, torch.tensor([label]), None)
        clean = objective.denoised(output, x, t)
        fraction = objective.chain.variance_fraction(output)
        found.append(chain.posterior(step, x, clean, fraction)[part])
    return torch.cat(found)


def all_tokens(net: Net) -> Tensor:
    return net(latents(1), T, Y, None)


OURS: dict[tuple[str, str], Callable[[Net], Tensor]] = {
    ("dit", "all tokens"): all_tokens,
    ("dit", "guided 1.5"): lambda net: guided_pair(net, 1.5, None),
    ("mdt", "all tokens"): all_tokens,
    ("mdt", "179 of 256 kept"): lambda net: net(latents(1), T, Y, subset(2, 179)),
    ("mdt", "guided 3.8, power 4"): lambda net: guided_pair(net, 3.8, 4.0),
    ("mdtv2", "all tokens"): all_tokens,
    ("mdtv2", "153 of 256 kept"): lambda net: net(latents(1), T, Y, subset(2, 153)),
    ("mdtv2", "guided 3.8, power 4"): lambda net: guided_pair(net, 3.8, 4.0),
    ("maskdit", "D, all tokens"): lambda net: denoiser(net, Y)(latents(1), SIGMA),
    ("maskdit", "D, guided 1.5"): lambda net: guided_denoiser(net)(
        latents(1), torch.full((2,), 0.7)
    ),
    ("maskdit", "D, 128 of 256 kept"): lambda net: denoiser(net, Y, subset(2, 128))(
        latents(1), SIGMA
    ),
    ("maskdit", "Heun, 4 steps"): lambda net: heun(denoiser(net, Y), START, edm_levels(4)),
    ("maskdit", "Heun, 4 steps, guided 1.5"): lambda net: heun(
        guided_denoiser(net), START, edm_levels(4)
    ),
    ("dit", "DDPM-250 mean, steps 100 and 249"): lambda net: ddpm_step(net, 0),
    ("dit", "DDPM-250 log variance, same"): lambda net: ddpm_step(net, 1),
    ("uvit", "all tokens"): all_tokens,
    ("maskdm", "all tokens"): lambda net: net(PIXELS, T, None, None),
    ("maskdm", "2 of 16 blocks kept"): lambda net: kept_patches(net(PIXELS, T, None, VISIBLE)),
    ("lmd", "29 of 49 kept"): lambda net: patchify(
        net(MODES, torch.zeros(2), None, MODE_SUBSET), 4
    ),
    ("lightningdit", "all tokens"): all_tokens,
    ("lightningdit", "guided 1.5"): lambda net: guided_pair(net, 1.5, None),
    ("jit", "all tokens"): lambda net: net(values((2, 3, 64, 64), 1, 4.0), T, None, None),
    ("jit", "Heun, 4 steps"): lambda net: jit_samples(net),
}


def jit_samples(net: Net) -> Tensor:
    flow = diffusion_of(build_loss(config_of("jit").objective))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return flow.denoised(net(x, 1 - t, None, None), x, t)

    return heun(denoise, JIT_START, flow.levels(LevelOptions(4)))


def jit_losses(net: Net) -> list[float]:
    batch = Batch(JIT_IMAGES, JIT_T, JIT_NOISE)
    loss, view = build_loss(config_of("jit").objective), View("all")
    terms = term_losses(
        lambda x, t, *rest: Answer(net(x, 1 - JIT_T, None, None)), loss, view, batch, 16
    )
    return terms[0].tolist()


def ddpm_losses(net: Net, name: str, keep: int) -> list[float]:
    """mse at t = 0, 60, 900, then vb; `keep` tokens are kept, 0 for a pass on all."""
    objective = Epsilon(min_snr_gamma=5.0 if name == "mdtv2" else None)
    clean, noise = latents(2, 3), latents(3, 3)
    kept = subset(3, keep) if keep else None
    batch = Batch(clean, LOSS_T, noise, Condition(LOSS_Y), kept)
    noisy = objective.add_noise(clean, noise, LOSS_T)
    output = net(noisy, LOSS_T, LOSS_Y, kept)

    def answered(x: Tensor, *rest: object) -> Answer:
        assert torch.equal(x, noisy)
        return Answer(output)

    total = view_loss(answered, objective, View("kept"), batch, 2)
    bound = objective.variational_bound(output, clean, noisy, LOSS_T).flatten(1).mean(1)
    return [*(total - bound).tolist(), *bound.tolist()]


def published_losses(net: Net, name: str, batch: Batch) -> list[Tensor]:
    """Every term of the network's own configuration, per sample, before its weight."""
    config = config_of(name)
    view, loss = build_views(config)[0], build_loss(config.objective)
    return term_losses(
        lambda *given: Answer(net(*given)), loss, view, batch, config.model.patch_size
    )


def maskdit_losses(net: Net) -> list[float]:
    batch = Batch(latents(2), SIGMA, latents(3), Condition(Y), subset(2, 128))
    terms = published_losses(net, "maskdit", batch)
    return torch.cat(terms).tolist()


def lmd_losses(net: Net) -> list[float]:
    batch = Batch(MODES, torch.zeros(2), torch.zeros_like(MODES), subset=MODE_SUBSET)
    terms = published_losses(net, "lmd", batch)
    return [term.mean().item() for term in terms]


OUR_LOSSES: dict[tuple[str, str], Callable[[Net], list[float]]] = {
    ("mdt", "mse and vb, all tokens"): lambda net: ddpm_losses(net, "mdt", 0),
    ("mdt", "mse and vb, masked"): lambda net: ddpm_losses(net, "mdt", 179),
    ("mdtv2", "mse and vb, all tokens"): lambda net: ddpm_losses(net, "mdtv2", 0),
    ("mdtv2", "mse and vb, masked"): lambda net: ddpm_losses(net, "mdtv2", 153),
    ("maskdit", "DSM of kept, MAE of dropped"): maskdit_losses,
    ("lmd", "batch loss, normalised and raw"): lmd_losses,
    ("jit", "loss at t = 0.95, 0.5, 0.01"): jit_losses,
}


def summary(output: Tensor) -> list[float]:
    """The six numbers that were printed of each output."""
    flat = output.double().flatten()
    return [flat.mean().item(), flat.std(correction=0).item(), *flat[:3].tolist(), flat[-1].item()]


def parameters(
    preset: str,
    model: dict[str, Any],
    latent_shape: tuple[int, int, int] = (4, 32, 32),
    classes: int = 1000,
    frozen: bool = False,
) -> int:
    """Of a preset with these keys. frozen: with the fixed positions, as official code counts."""
    decoder = model.get("decoder_depth")
    keys = [f"model.{key}={_toml(value)}" for key, value in model.items()]
    keys += [f"masking.restore_at=-{decoder}"] if decoder else []
    with torch.device("meta"):
        network = build_network(load_config([preset], keys).config, latent_shape, classes)
    assert network.positions_ND is not None
    tables = [network.positions_ND.numel()]
    width = network.positions_ND.shape[1]
    if network.narrow is not None:
        tables.append(network.narrow.positions_ND.numel())
        width += network.narrow.positions_ND.shape[1]
    # A class token has a row of zeros in front of each table.
    token = width if network.extras is not None else 0
    count = sum(p.numel() for p in network.parameters())
    return count + (sum(tables) + token if frozen else 0)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def sized(size: str, **more: Any) -> dict[str, Any]:
    hidden_size, depth, heads = SIZES[size]
    return {"hidden_size": hidden_size, "depth": depth, "num_heads": heads, **more}
