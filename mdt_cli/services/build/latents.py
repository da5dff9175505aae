"""The units in which a network is fed latents: those of the cache, or the autoencoder's own.

Axes: B batch, C channels, H W latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdt_cli.config.data import DataConfig


@dataclass(frozen=True, eq=False)
class LatentUnits:
    """`shift_CHW` and `scale_CHW`, [C, 1, 1] both, of the autoencoder; None: units of the cache.

    A cache holds (z - shift) * scale.
    """

    shift_CHW: Tensor | None = None
    scale_CHW: Tensor | None = None

    def as_fed(self, latents_BCHW: Tensor) -> Tensor:
        """Latents of a cache in the units of the network."""
        if self.scale_CHW is None or self.shift_CHW is None:
            return latents_BCHW
        return latents_BCHW / self.scale_CHW.to(latents_BCHW) + self.shift_CHW.to(latents_BCHW)

    def as_cached(self, latents_BCHW: Tensor) -> Tensor:
        """The inverse: what a codec decodes."""
        if self.scale_CHW is None or self.shift_CHW is None:
            return latents_BCHW
        return (latents_BCHW - self.shift_CHW.to(latents_BCHW)) * self.scale_CHW.to(latents_BCHW)


def latent_units(data: DataConfig, codec: Mapping[str, Any]) -> LatentUnits:
    """What `data.latents` says of the latents of a codec, whose facts a cache records."""
    if data.latents == "scaled" or "scale" not in codec:
        return LatentUnits()
    shift, scale = (torch.tensor(codec[key])[:, None, None] for key in ("shift", "scale"))
    return LatentUnits(shift, scale)
