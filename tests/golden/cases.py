"""What the golden numbers are numbers of: guided outputs, losses and parameter counts of ours."""

import torch

from mdt_cli.config.run import RunConfig
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.step import View, ViewDraw, view_loss
from mdt_cli.core.sampling.guidance import constant, guided, power_cosine
from mdt_cli.services.build import build_network
from tests.golden.numbers import CONFIGS, SIZES
from tests.golden.synthetic import fill_synthetically, latents, subset

T, Y = torch.tensor([10, 900]), torch.tensor([3, 7])


def synthetic_network(name: str) -> Transformer:
    """Size S with the synthetic weights, in evaluation mode."""
    network = build_network(RunConfig.model_validate(CONFIGS[name]), (4, 32, 32), 1000).eval()
    fill_synthetically(network)
    return network


def guided_pair(network: Transformer, scale: float, power: float | None) -> torch.Tensor:
    """Both halves as official code returns them: guided channels shared, the rest each half's."""
    at = constant(scale) if power is None else power_cosine(scale, power, lambda t: t / 1000)
    halves: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for x, time, label in zip(latents(1).split(1), T.tolist(), Y.tolist(), strict=True):

        def conditional(x: torch.Tensor, t: torch.Tensor, y: int = label) -> torch.Tensor:
            return network(x, t, torch.tensor([y]))

        def null(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return network(x, t, torch.tensor([1000]))

        t = torch.tensor([time])
        merged = guided(conditional, null, at, "first3")(x, t)
        halves[0].append(merged)
        halves[1].append(torch.cat([merged[:, :3], null(x, t)[:, 3:]], 1))
    return torch.cat(halves[0] + halves[1])


def losses(network: Transformer, name: str, keep: int) -> list[float]:
    """mse at t = 0, 60, 900, then vb; `keep` tokens are kept, 0 for a pass on all."""
    objective = Epsilon(min_snr_gamma=5.0 if name == "mdtv2" else None)
    clean, noise = latents(2, 3), latents(3, 3)
    t, y = torch.tensor([0, 60, 900]), torch.tensor([3, 7, 999])
    draw = ViewDraw(noise, y, subset(3, keep) if keep else None)
    total = view_loss(network, objective, View("kept"), draw, clean, t, 2)
    noisy = objective.add_noise(clean, noise, t)
    output = network(noisy, t, y, draw.subset)
    bound = objective.variational_bound(output, clean, noisy, t).flatten(1).mean(1)
    return [*(total - bound).tolist(), *bound.tolist()]


def parameters(name: str, size: str, decoder: int) -> int:
    """As official code counts: the fixed position table is a frozen parameter there."""
    tables = {key: dict(table) for key, table in CONFIGS[name].items()}
    hidden_size, depth, heads = SIZES[size]
    tables["model"] |= {"hidden_size": hidden_size, "depth": depth, "num_heads": heads}
    tables["model"]["decoder_depth"] = decoder
    if "masking" in tables:
        tables["masking"]["restore_at"] = -decoder
    with torch.device("meta"):
        network = build_network(RunConfig.model_validate(tables), (4, 32, 32), 1000)
    fixed = 0 if tables["model"].get("positions") == "learned" else network.positions_ND.numel()
    return sum(p.numel() for p in network.parameters()) + fixed
