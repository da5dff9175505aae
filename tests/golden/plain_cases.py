"""The same cases by the restatements of `tests/reference`: nothing here calls the package."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.golden.cases import (
    JIT_IMAGES,
    JIT_NOISE,
    JIT_START,
    JIT_T,
    LOSS_T,
    LOSS_Y,
    MODE_SUBSET,
    MODES,
    NULL,
    PIXELS,
    SIGMA,
    START,
    STEPS,
    VISIBLE,
    T,
    Y,
)
from tests.golden.networks import Net
from tests.golden.synthetic import latents, subset, values
from tests.reference import diffusion as plain


def patchify(image: Tensor, patch: int) -> Tensor:
    """[B, N, p p C], one patch after the other."""
    return torch.stack(
        [
            torch.stack(
                [block.permute(1, 2, 0).flatten() for block in plain.patches_of(one, patch)]
            )
            for one in image
        ]
    )


def visible_patches(image: Tensor) -> Tensor:
    pairs = zip(patchify(image, 4), VISIBLE.kept_BK, strict=True)
    return torch.stack([tokens[kept] for tokens, kept in pairs])


def guided_pair(net: Net, scales: list[float]) -> Tensor:
    x = latents(1)
    conditional, null = net(x, T, Y, None), net(x, T, NULL, None)
    merged = torch.cat(
        [
            plain.guided_noise(conditional[i : i + 1], null[i : i + 1], scale)
            for i, scale in enumerate(scales)
        ]
    )
    return torch.cat([merged, torch.cat([merged[:, :3], null[:, 3:]], 1)])


def denoised(net: Net, keep: int = 0) -> Tensor:
    """Sample by sample, as each has its own noise level."""
    kept = subset(2, keep) if keep else None
    answers = []
    for i, sigma in enumerate(SIGMA.tolist()):

        def raw(x: Tensor, t: Tensor) -> Tensor:
            return net(x, t, Y, kept)

        answers.append(plain.preconditioned(raw, latents(1), sigma)[i])
    return torch.stack(answers)


def guided_raw(net: Net) -> plain.Raw:
    """Official code guides what the network says, before anything is made of it."""

    def raw(x: Tensor, t: Tensor) -> Tensor:
        null = net(x, t, NULL, None)
        return null + 1.5 * (net(x, t, Y, None) - null)

    return raw


def labelled_raw(net: Net) -> plain.Raw:
    return lambda x, t: net(x, t, Y, None)


def ddpm_step(net: Net, part: int) -> Tensor:
    found = []
    for x, step, label in zip(latents(1).split(1), STEPS, Y.tolist(), strict=True):
        t = torch.tensor([round(step * 999 / 249)])
        answer = net(x, t, torch.tensor([label]), None)
        found.append(plain.ddpm_step(answer, x, step, 250)[part])
    return torch.cat(found)


def all_tokens(net: Net) -> Tensor:
    return net(latents(1), T, Y, None)


POWER = [plain.power_cosine(3.8, 4.0, t) for t in T.tolist()]
PLAIN: dict[tuple[str, str], Callable[[Net], Tensor]] = {
    ("dit", "all tokens"): all_tokens,
    ("dit", "guided 1.5"): lambda net: guided_pair(net, [1.5, 1.5]),
    ("mdt", "all tokens"): all_tokens,
    ("mdt", "179 of 256 kept"): lambda net: net(latents(1), T, Y, subset(2, 179)),
    ("mdt", "guided 3.8, power 4"): lambda net: guided_pair(net, POWER),
    ("mdtv2", "all tokens"): all_tokens,
    ("mdtv2", "153 of 256 kept"): lambda net: net(latents(1), T, Y, subset(2, 153)),
    ("mdtv2", "guided 3.8, power 4"): lambda net: guided_pair(net, POWER),
    ("maskdit", "D, all tokens"): denoised,
    ("maskdit", "D, guided 1.5"): lambda net: plain.preconditioned(
        guided_raw(net), latents(1), 0.7
    ),
    ("maskdit", "D, 128 of 256 kept"): lambda net: denoised(net, 128),
    ("maskdit", "Heun, 4 steps"): lambda net: plain.heun_edm(labelled_raw(net), START, 4),
    ("maskdit", "Heun, 4 steps, guided 1.5"): lambda net: plain.heun_edm(guided_raw(net), START, 4),
    ("dit", "DDPM-250 mean, steps 100 and 249"): lambda net: ddpm_step(net, 0),
    ("dit", "DDPM-250 log variance, same"): lambda net: ddpm_step(net, 1),
    ("uvit", "all tokens"): all_tokens,
    ("maskdm", "all tokens"): lambda net: net(PIXELS, T, None, None),
    ("maskdm", "2 of 16 blocks kept"): lambda net: visible_patches(net(PIXELS, T, None, VISIBLE)),
    ("lmd", "29 of 49 kept"): lambda net: patchify(
        net(MODES, torch.zeros(2), None, MODE_SUBSET), 4
    ),
    ("lightningdit", "all tokens"): all_tokens,
    ("lightningdit", "guided 1.5"): lambda net: guided_pair(net, [1.5, 1.5]),
    ("jit", "all tokens"): lambda net: net(values((2, 3, 64, 64), 1, 4.0), T, None, None),
    ("jit", "Heun, 4 steps"): lambda net: jit_samples(net),
}


def jit_samples(net: Net) -> Tensor:
    """Heun's rule in JiT's own time, from noise (0) to image (1); the last step is Euler's."""

    def velocity(z: Tensor, t: float) -> Tensor:
        return (net(z, torch.full((2,), t), None, None) - z) / (1 - t)

    z = 2 * JIT_START
    for k in range(4):
        slope = velocity(z, k / 4)
        if k < 3:
            slope = (slope + velocity(z + slope / 4, (k + 1) / 4)) / 2
        z = z + slope / 4
    return z


def jit_losses(net: Net) -> list[float]:
    found = []
    for image, noise, t in zip(JIT_IMAGES, JIT_NOISE, JIT_T.tolist(), strict=True):
        z = (1 - t) * image + t * 2 * noise
        guess = net(z[None], torch.tensor([1 - t]), None, None)[0]
        velocities = [(x - z) / max(t, 0.05) for x in (image, guess)]
        found.append((velocities[0] - velocities[1]).square().mean().item())
    return found


def ddpm_losses(net: Net, min_snr: bool, keep: int) -> list[float]:
    clean, noise, times = latents(2, 3), latents(3, 3), LOSS_T.tolist()
    noisy = plain.add_noise(clean, noise, times)
    answer = net(noisy, LOSS_T, LOSS_Y, subset(3, keep) if keep else None)
    mse, bounds = plain.mse_and_vb(answer, clean, noise, noisy, times, min_snr)
    return [*mse, *bounds]


def maskdit_losses(net: Net) -> list[float]:
    clean, kept = latents(2), subset(2, 128)
    terms: tuple[list[float], list[float]] = ([], [])
    for i, sigma in enumerate(SIGMA.tolist()):

        def raw(x: Tensor, t: Tensor) -> Tensor:
            return net(x, t, Y, kept)

        noisy = clean + sigma * latents(3)
        estimate = plain.preconditioned(raw, noisy, sigma)[i]
        seen = kept.kept_BK[i].tolist()
        hidden = sorted(set(range(256)) - set(seen))
        weight = plain.edm_weight(sigma)
        terms[0].append(weight * plain.over_patches(estimate, clean[i], seen, 2))
        terms[1].append(plain.over_patches(estimate, noisy[i], hidden, 2, norm=True))
    return [*terms[0], *terms[1]]


def lmd_losses(net: Net) -> list[float]:
    answer, found = net(MODES, torch.zeros(2), None, MODE_SUBSET), []
    for norm in (True, False):
        per_sample = [
            plain.over_patches(one, image, sorted(set(range(49)) - set(kept)), 4, norm)
            for one, image, kept in zip(answer, MODES, MODE_SUBSET.kept_BK.tolist(), strict=True)
        ]
        # As many hidden patches in each sample: the mean of means is that of the batch.
        found.append(sum(per_sample) / len(per_sample))
    return found


PLAIN_LOSSES: dict[tuple[str, str], Callable[[Net], list[float]]] = {
    ("mdt", "mse and vb, all tokens"): lambda net: ddpm_losses(net, False, 0),
    ("mdt", "mse and vb, masked"): lambda net: ddpm_losses(net, False, 179),
    ("mdtv2", "mse and vb, all tokens"): lambda net: ddpm_losses(net, True, 0),
    ("mdtv2", "mse and vb, masked"): lambda net: ddpm_losses(net, True, 153),
    ("maskdit", "DSM of kept, MAE of dropped"): maskdit_losses,
    ("lmd", "batch loss, normalised and raw"): lmd_losses,
    ("jit", "loss at t = 0.95, 0.5, 0.01"): jit_losses,
}
