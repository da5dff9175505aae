"""The shapes of what caches and weights both record: codec, latents, classes."""

from typing import Annotated, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from mdt_cli.schema import Finite, Hex, Side, Whole

# Values of one image, latent or not: 32 images of 64 megapixels would fit.
MAX_VALUES = 1 << 31


def _small(shape: list[int]) -> list[int]:
    if shape[0] * shape[1] * shape[2] > MAX_VALUES:
        raise ValueError(f"{shape} has more than {MAX_VALUES:,} values")
    return shape


class CodecFacts(TypedDict):
    """How latents were made and are decoded."""

    name: str
    id: NotRequired[str | None]
    kind: NotRequired[str | None]
    weights_sha256: NotRequired[Hex | None]
    shift: NotRequired[list[Finite]]
    scale: NotRequired[list[Finite]]
    downsampling: NotRequired[Side]
    stochastic: NotRequired[bool]


LatentShape = Annotated[list[Side], Field(min_length=3, max_length=3), AfterValidator(_small)]


class DataFields(TypedDict):
    """The facts of the cache in the header of weights; imported weights have no cache."""

    codec: CodecFacts
    latent_shape: LatentShape
    image_size: Side
    num_classes: Annotated[int, Field(ge=0, le=10_000_000)]
    class_names: list[str]
    class_names_known: NotRequired[bool]
    count: NotRequired[Whole]
    digest: NotRequired[str]
    latent_mean: NotRequired[list[Finite]]
    latent_std: NotRequired[list[Finite]]
