"""Each network twice, with the same synthetic weights: ours, and its plain restatement."""

from collections.abc import Callable

import torch
from torch import Tensor

from mdt_cli.config.run import RunConfig
from mdt_cli.core.masking.tokens import TokenSubset
from mdt_cli.core.model.adapters.dit import to_official
from mdt_cli.core.model.adapters.uvit import MASKDM, UVIT
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.services.build.network import build_network
from tests.golden.numbers import CONFIGS
from tests.golden.synthetic import fill_synthetically
from tests.reference import modern, transformers

# (latents, time as the network reads it, labels, kept tokens) -> raw answer
Net = Callable[[Tensor, Tensor, Tensor | None, TokenSubset | None], Tensor]

SHAPES = {"maskdm": (3, 64, 64), "lmd": (4, 28, 28), "jit": (3, 64, 64)}


def names_of(name: str):
    return MASKDM if name == "maskdm" else UVIT


def config_of(name: str) -> RunConfig:
    return RunConfig.model_validate(CONFIGS[name])


def synthetic_network(name: str) -> Transformer:
    """With the synthetic weights, in evaluation mode."""
    classes = 0 if name in SHAPES else 1000
    network = build_network(config_of(name), SHAPES.get(name, (4, 32, 32)), classes).eval()
    # U-ViT and MaskDM had their positions filled as well.
    positions, new = name in ("uvit", "maskdm"), name in ("lightningdit", "jit")
    fill_synthetically(network, names_of(name), positions, scales_at_one=new)
    return network


def as_trained(network: Transformer) -> Net:
    """With the kept tokens in the order in which training has them: sorted."""

    def run(x: Tensor, t: Tensor, y: Tensor | None, subset: TokenSubset | None = None) -> Tensor:
        if subset is not None:
            subset = TokenSubset(subset.kept_BK.sort(dim=1).values, subset.num_tokens)
        return network(x, t, y, subset).final

    return run


def plain_network(name: str, network: Transformer) -> Net:
    """The restatement on our network's tensors; kept tokens stay in the order they were drawn."""
    tensors = to_official(network, names_of(name))
    model = config_of(name).model
    heads, patch, narrow = model.num_heads, model.patch_size, model.narrow_decoder.num_heads
    plain = {
        "maskdit": lambda: transformers.maskdit(tensors, heads, narrow, patch),
        "uvit": lambda: transformers.uvit(tensors, heads, patch),
        "maskdm": lambda: transformers.uvit(tensors, heads, patch),
        "lmd": lambda: transformers.lmd(tensors, heads, narrow, patch),
        "lightningdit": lambda: modern.modern(tensors, heads, patch),
        "jit": lambda: modern.modern(tensors, heads, patch),
    }.get(name, lambda: transformers.mdt(tensors, heads, patch, model.decoder_depth))()

    def run(x: Tensor, t: Tensor, y: Tensor | None, subset: TokenSubset | None = None) -> Tensor:
        with torch.no_grad():
            return plain(x, t, y, None if subset is None else subset.kept_BK)

    return run
