"""The shapes of `plan.json`, of the record of a shard and of `manifest.json`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from mdt_cli.artifacts.data_schema import CodecFacts, LatentShape
from mdt_cli.schema import Beside, Hex, Side, Whole


class SourceFields(TypedDict):
    """The images of a cache."""

    kind: NotRequired[str]
    items: Whole
    digest: NotRequired[Hex]


class PlanFields(TypedDict):
    """What decides the bytes of a cache."""

    codec: CodecFacts
    image_size: Side
    crop: NotRequired[str | None]
    latent_shape: LatentShape
    stochastic: bool
    flip: bool
    dtype: Literal["uint8", "float16", "bfloat16", "float32"]
    labelled: NotRequired[bool]
    source: SourceFields
    shard_rows: Side


def _with_file(shard: Mapping[str, Any]) -> Mapping[str, Any]:
    if shard["rows"] and shard["file"] is None:
        raise ValueError(f"{shard['rows']} rows are in no file")
    return shard


class ShardFields(TypedDict):
    """The record of one finished shard, as the manifest has it."""

    index: Whole
    file: Beside | None
    rows: Whole
    bytes: Whole
    sha256: Hex
    class_counts: dict[Annotated[str, Field(pattern=r"^-?\d{1,18}$")], Whole]
    sums: list[float]
    squares: list[float]
    modes: dict[str, Whole]
    enlarged: Whole


class SkippedFields(TypedDict):
    """An image that could not be read."""

    name: str
    reason: str


class ShardRecord(ShardFields):
    """The record of one finished shard, as its own file has it."""

    skipped: list[SkippedFields]
    contents: NotRequired[list[Hex]]
    marks: NotRequired[dict[str, str]]


class SkippedInShard(SkippedFields):
    """An image that could not be read, and the shard it would be in."""

    shard: Whole


class ClassFields(TypedDict):
    """A class and its images."""

    name: str
    count: Whole


class ManifestFields(PlanFields):
    """All that a finished cache says of itself."""

    num_classes: Whole
    classes: list[ClassFields]
    count: Whole
    latent_mean: list[float]
    latent_std: list[float]
    modes: dict[str, Whole]
    enlarged: Whole
    skipped: list[SkippedInShard]
    shards: list[Annotated[ShardFields, AfterValidator(_with_file)]]
    versions: dict[str, str]
    contents: NotRequired[dict[str, str]]
