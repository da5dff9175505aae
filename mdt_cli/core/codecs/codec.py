"""What a codec is, and how one is opened: by name, or from the facts in a cache."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from mdt_cli.core.codecs import pixels
from mdt_cli.errors import MdtError

# A decoder needs far more memory for an image than a network of latents does.
DECODED_AT_ONCE = 16


class Codec(Protocol):
    """Images float32 [B,3,S,S] in [-1,1] to latents [B,C,H,W] and back.

    Latents are after the codec's own shift and scale. `encode` gives the mean and the standard
    deviation of the posterior, None for a deterministic codec. `facts` names the codec so that
    `codec_from_facts` finds it again.
    """

    @property
    def name(self) -> str:
        """ "pixels" or "autoencoder"."""

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """[C, H, W] for images of this side; MdtError for a side that the codec cannot encode."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation [B,C,H,W], float32."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,S,S], float32, about -1..1."""

    def facts(self) -> dict[str, Any]:
        """What a cache records of the codec, as JSON values."""


def decoded(codec: Codec, latents: Tensor) -> Tensor:
    """The images [B,3,S,S] of `decode`, a few at a time."""
    return torch.cat([codec.decode(part) for part in latents.split(DECODED_AT_ONCE)])


def open_codec(name: str, device: torch.device) -> Codec:
    """`pixels`, or a diffusers autoencoder by Hugging Face id or folder."""
    if name == pixels.NAME:
        return pixels.PixelCodec()
    from mdt_cli.core.codecs import autoencoder

    return autoencoder.load_autoencoder(name, device)


def codec_from_facts(
    facts: Mapping[str, Any], device: torch.device, override: str | None = None
) -> Codec:
    """The codec of a cache; `override` is another id or folder of the same weights.

    Raises MdtError where it cannot be found, or where its weights are not those of the cache.
    """
    if facts["name"] == pixels.NAME:
        if override not in (None, pixels.NAME):
            raise MdtError(
                f"the latents are pixels; they cannot be decoded by {override}", "leave out --codec"
            )
        return pixels.PixelCodec()
    if override == pixels.NAME:
        raise MdtError(
            f"the latents are not pixels but those of {facts.get('id') or 'an autoencoder'}",
            "leave out --codec, or name the autoencoder",
        )
    if not {"shift", "scale"} <= facts.keys():
        raise MdtError(
            "the file does not record the shift and scale of its latents, and cannot be decoded",
            "use the cache or weights that mdt wrote",
        )
    from mdt_cli.core.codecs import autoencoder

    return autoencoder.reload(facts, device, override)
