"""The codec without weights: latents are the pixels themselves."""

from typing import Any

from torch import Tensor

NAME = "pixels"


class PixelCodec:
    """RGB in [-1,1] as it is; the cache keeps the uint8 values, so nothing is lost."""

    name = NAME

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        return (3, image_size, image_size)

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        return images, None

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def facts(self) -> dict[str, Any]:
        return {"name": NAME}
