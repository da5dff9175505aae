"""Images of one size, or cropped to one, as 8-bit RGB: what scores are computed on."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mdt_cli.errors import MdtError
from mdt_cli.images.decode import Pixels, Raw, read_image_header, read_pixels
from mdt_cli.images.depth import a_few, check_depth
from mdt_cli.images.image_set import ImageSet
from mdt_cli.images.open_image import UnreadableError


@dataclass(frozen=True)
class SizedSet:
    """A set of images that all have, once cropped to `crop`, the size (height, width) `size`."""

    images: ImageSet
    size: tuple[int, int]
    crop: int | None = None  # side of the square that each image is cropped to
    jpegs: int = 0  # how many are stored in a lossy format
    resized: int = 0  # how many have another size than that of the crop
    enlarged: int = 0  # how many are smaller

    @property
    def path(self) -> Path:
        """Where the images are, as the user named it."""
        return self.images.path

    @property
    def kind(self) -> str:
        """The layout of the images, such as `folder` or `zip`."""
        return self.images.kind

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def provenance(self) -> Mapping[str, Any] | None:
        """`samples.json` of a sample folder; None for any other set."""
        return self.images.provenance

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        """The class name of each image, or None where there are no classes."""
        names = self.images.classes
        return tuple(names[label] for label in self.images.labels) if names else None

    @property
    def files(self) -> set[Path]:
        """The files in which the images lie."""
        return self.images.reader.files(self.images.locations)

    def read(self, positions: Iterable[int] | None = None) -> Iterator[tuple[str, Raw]]:
        """Name and content of all images, or of those at ascending positions.

        What was opened for positions stays open until `close`, so that one span after another
        costs one pass. Raises MdtError for an image that cannot be read.
        """
        if positions is None:
            with closing(self):
                yield from self.read(range(self.count))
            return
        for name, raw in self.images.read(positions):
            if isinstance(raw, UnreadableError):
                raise unreadable_in_set(self.path, name, raw) from raw
            yield name, raw

    def decode(self, name: str, raw: Raw) -> Pixels:
        """uint8 [H,W,3] of one image, upright and cropped. Raises MdtError with its name."""
        with _named(self.path, name):
            return read_pixels(raw, self.crop)

    def pixels_at(self, positions: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """Position and decoded image of some positions, ascending, each once."""
        ascending = sorted(set(positions))
        with closing(self):
            for position, (name, raw) in zip(ascending, self.read(ascending), strict=True):
                yield position, self.decode(name, raw)

    def close(self) -> None:
        """Close the files; reading again opens them again."""
        self.images.close()


def sized(images: ImageSet, crop: int | None = None) -> SizedSet:
    """Read the headers and check that all images have one size, unless they are cropped to one.

    Raises MdtError for an unreadable header, and for a crop of images that were cropped before.
    """
    if crop is not None and crop < 1:
        raise MdtError(f"--size {crop} is too small", "give a number from 1")
    if crop is not None:
        check_crop(images, crop)
    counts: Counter[tuple[int, int]] = Counter()
    first: dict[tuple[int, int], str] = {}
    lossy = 0
    if images.size is not None:
        counts[images.size] = len(images)
    else:
        check_depth(
            images.path,
            a_few(images),
            f"mdt encode-latents {shlex.quote(str(images.path))} CACHE --size N --white 4095 makes "
            "that value white: give CACHE, N the side of the samples",
        )
        for name, raw in SizedSet(images, (0, 0)).read():
            with _named(images.path, name):
                header = read_image_header(raw)
            counts[header.size] += 1
            first.setdefault(header.size, name)
            lossy += header.lossy
    if crop is None:
        return SizedSet(images, _one_size(images.path, counts, first), jpegs=lossy)
    return SizedSet(
        images,
        (crop, crop),
        crop=crop,
        jpegs=lossy,
        resized=sum(n for size, n in counts.items() if size != (crop, crop)),
        enlarged=sum(n for size, n in counts.items() if min(size) < crop),
    )


def check_crop(images: ImageSet, crop: int) -> None:
    """MdtError where the images of a latent cache would be cropped once more, to another size."""
    if images.kind == "latent cache" and images.size is not None and images.size != (crop, crop):
        raise MdtError(
            f"{images.path} holds images cropped to {images.size[0]}, which --size {crop} would "
            "crop once more",
            f"give the images it was made from, or leave --size {crop} out",
        )


def unreadable_in_set(where: Path, name: str, error: BaseException) -> MdtError:
    """The error for an image that cannot be read, in a set of which every image counts."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return MdtError(
        f"{where}: {name} cannot be read: {reason}",
        "replace or remove it; a score over fewer images than meant would mislead",
    )


@contextmanager
def _named(where: Path, name: str) -> Iterator[None]:
    try:
        yield
    except UnreadableError as error:
        raise unreadable_in_set(where, name, error) from error


def _one_size(
    path: Path, counts: Counter[tuple[int, int]], first: Mapping[tuple[int, int], str]
) -> tuple[int, int]:
    """The (height, width) of all images; MdtError counts the sizes where they differ."""
    if len(counts) > 1:
        listed = [f"{n} of {w}x{h} ({first[h, w]})" for (h, w), n in counts.most_common(4)]
        more = f" and {len(counts) - 4} further sizes" if len(counts) > 4 else ""
        raise MdtError(
            f"{path} holds images of different sizes: {', '.join(listed)}{more}",
            "pass --size N, N the side of the samples: it crops every set as "
            "`mdt encode-latents --size N` does",
        )
    return next(iter(counts))
