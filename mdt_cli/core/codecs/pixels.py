"""The codec without weights: latents are the pixels themselves."""

from typing import Any

from torch import Tensor

NAME = "pixels"


class PixelCodec:
    """RGB in [-1,1] as it is; the cache keeps the uint8 values, so nothing is lost."""

    name = NAME

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """[3, S, S] for every side."""
        return (3, image_size, image_size)

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """The images themselves; there is no spread."""
        return images, None

    def decode(self, latents: Tensor) -> Tensor:
        """The latents themselves."""
        return latents

    def facts(self) -> dict[str, Any]:
        """Its name is all there is to record."""
        return {"name": NAME}
