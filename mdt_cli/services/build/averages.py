"""From the [ema] table to EMA weights."""

from torch import nn

from mdt_cli.config.training import EmaConfig
from mdt_cli.core.optim.ema import Ema


def build_averages(table: EmaConfig, network: nn.Module) -> dict[str, Ema]:
    """A track for each name, which its file bears too; all start as copies of the network."""
    return {
        name: Ema(network, decay, table.warmup)
        for name, decay in zip(table.names, table.decays, strict=True)
    }
