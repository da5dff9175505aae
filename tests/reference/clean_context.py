"""MC-DiT's four terms written down plainly, on tensors under MaskDiT's names.

D is the denoiser around the narrow decoder. x_t: noisy, x_0: clean latents, m: hidden places.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.reference.diffusion import SIGMA_DATA, edm_weight, over_patches
from tests.reference.transformers import (
    Weights,
    embed_patches,
    maskdit_condition,
    maskdit_decode,
    maskdit_encode,
    unshuffle,
)


def four_terms(
    main: Weights,
    averaged: Weights,
    heads: tuple[int, int],
    patch: int,
    clean: Tensor,
    noise: Tensor,
    sigmas: list[float],
    y: Tensor,
    kept: list[list[int]],
) -> dict[str, list[float]]:
    """Per sample, before their weights. `patches` in both: the embedding of raw patches.

    clean: lambda(sigma) |D - x_0|^2 on kept places; noise: |D - x_t|^2 on hidden ones; con1 and
    con2: |D - D'|^2 on kept places, where D' is the averaged decoder on all of x_t, on all of x_0.
    """
    terms: dict[str, list[float]] = {"clean": [], "noise": [], "con1": [], "con2": []}
    for i, sigma in enumerate(sigmas):
        x0, xt = clean[i : i + 1], clean[i : i + 1] + sigma * noise[i : i + 1]
        total = math.sqrt(sigma**2 + SIGMA_DATA**2)
        shown, raw_clean = xt / total, x0 / SIGMA_DATA
        c = maskdit_condition(main, torch.tensor([math.log(sigma) / 4]), y[i : i + 1])

        def estimate(answer: Tensor, seen: Tensor, total=total, sigma=sigma) -> Tensor:
            return (SIGMA_DATA / total) ** 2 * seen + sigma * SIGMA_DATA / total * answer

        places = torch.tensor([kept[i]])
        tokens = maskdit_encode(main, heads[0], shown, c, places)
        context = embed_patches(main, "patches", raw_clean)
        tokens = unshuffle(tokens, places, context, context.shape[1])
        d = estimate(maskdit_decode(main, heads[1], tokens, c, patch), xt)[0]
        branches = {
            name: estimate(
                maskdit_decode(
                    averaged, heads[1], embed_patches(averaged, "patches", fed), c, patch
                ),
                seen,
            )[0]
            for name, fed, seen in (("con1", shown, xt), ("con2", raw_clean, x0))
        }
        hidden = [n for n in range(context.shape[1]) if n not in kept[i]]
        terms["clean"].append(edm_weight(sigma) * over_patches(d, x0[0], kept[i], patch))
        terms["noise"].append(over_patches(d, xt[0], hidden, patch))
        for name, branch in branches.items():
            terms[name].append(over_patches(d, branch, kept[i], patch))
    return terms


def named(tensors: Mapping[str, Tensor], embedding: tuple[Tensor, Tensor]) -> Weights:
    """MaskDiT's tensors without their prefix, and the embedding of raw patches."""
    plain = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    return {**plain, "patches.weight": embedding[0], "patches.bias": embedding[1]}
