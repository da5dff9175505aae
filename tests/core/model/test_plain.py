"""The fused path against plain restatements to rounding, with weights that let tokens interact.

The golden weights are small: in deep networks without modulation a token hardly sees the others,
or its time. Here every part moves the answer by far more than the tolerance.
"""

import pytest
import torch
from torch import Tensor

from mdt_cli.config.load import load_config
from mdt_cli.core.masking.tokens import RandomTokens, TokenSubset
from mdt_cli.core.model.adapters.dit import to_official
from mdt_cli.core.model.adapters.uvit import MASKDM, UVIT
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.rng import stream
from mdt_cli.services.build.network import build_network
from tests.reference import transformers as plain

T, Y = torch.tensor([3, 700]), torch.tensor([1, 5])
X = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=stream("plain"))
# In the order in which they were drawn: not sorted.
DRAWN = torch.tensor([[5, 0, 15, 8, 3, 10, 9], [1, 14, 2, 7, 12, 4, 0]])
HEADS, NARROW = 4, 2
SMALL = ("model.patch_size=2", "model.hidden_size=32", f"model.num_heads={HEADS}")
DECODER = f"model.narrow_decoder={{depth=2, hidden_size=16, num_heads={NARROW}}}"
MINUS = DECODER.replace("}", ", subtract_positions=true}")

CASES = {
    "dit": (("model.depth=3",), lambda w: plain.mdt(w, HEADS, 2, 0)),
    "mdt": (("model.depth=4",), lambda w: plain.mdt(w, HEADS, 2, 2)),
    "mdtv2": (
        ("model.depth=6", "model.decoder_depth=2", "masking.restore_at=-2"),
        lambda w: plain.mdt(w, HEADS, 2, 2),
    ),
    "maskdit": (("model.depth=3", DECODER), lambda w: plain.maskdit(w, HEADS, NARROW, 2)),
    "uvit": (("model.depth=5",), lambda w: plain.uvit(w, HEADS, 2)),
    "maskdm": (("model.depth=5", "masking.selector=random"), lambda w: plain.uvit(w, HEADS, 2)),
    "lmd": (("model.depth=3", MINUS), lambda w: plain.lmd(w, HEADS, NARROW, 2)),
}


def network_of(name: str) -> Transformer:
    """In double precision, every parameter random and large."""
    classes = 0 if name in ("maskdm", "lmd") else 5
    network = build_network(
        load_config([name], [*SMALL, *CASES[name][0]]).config, (4, 8, 8), classes
    )
    generator = stream("large", name)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 1.5 / max(1, parameter.shape[-1]) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return network.double().eval()


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() < 1e-6 * other.abs().max())


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_fused_path_is_the_plain_one(name: str) -> None:
    network = network_of(name)
    weights = to_official(network, MASKDM if name == "maskdm" else UVIT)
    restated = CASES[name][1](weights)
    labels = Y if network.label is not None or name == "uvit" else None
    whole = restated(X, T, labels, None)
    if name != "lmd":
        assert close(network(X, T, labels).final, whole)
        # Time and class are seen, and by far more than the tolerance.
        assert (restated(X, T.flip(0), labels, None) - whole).abs().max() > 1e-3 * whole.abs().max()
        if labels is not None:
            other = restated(X, T, labels.flip(0), None)
            assert (other - whole).abs().max() > 1e-3 * whole.abs().max()
    if network.route is None:
        return
    masked = restated(X, T, labels, DRAWN)
    kept = DRAWN.sort(dim=1).values
    assert close(network(X, T, labels, TokenSubset(kept, 16)).final, masked)
    # Another choice of tokens is another answer.
    others = RandomTokens().draw(2, (4, 4), 0.55, stream("other")).kept_BK
    assert not close(restated(X, T, labels, others), masked)
