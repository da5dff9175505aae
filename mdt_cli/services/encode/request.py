"""What `mdt encode-latents` is asked for."""

from dataclasses import dataclass
from pathlib import Path

from mdt_cli.images.reading import EVERYTHING, Reading


@dataclass(frozen=True)
class EncodeRequest:
    """`codec` None is pixels, `size` None is 256, `workers` None one per core of this process."""

    images: Path
    cache: Path
    codec: str | None = None
    size: int | None = None
    flip: bool = False
    dtype: str = "float16"
    workers: int | None = None
    limit: int | None = None
    batch_size: int = 32
    strict: bool = False
    unconditional: bool = False
    shard_size: int | None = None
    device: str | None = None
    # What is read of the images; the rule of order is the cache's.
    reading: Reading = EVERYTHING
    # The value of 16-bit grey that becomes white; None is 65535.
    white: int | None = None
    # Only compare a finished cache with its checksums, and `images` with the recorded contents.
    verify: bool = False
