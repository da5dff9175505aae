"""`mdt encode-latents --verify`: every byte of a finished cache and of its images is read again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mdt_cli.artifacts.latent_cache.manifest import read_manifest
from mdt_cli.artifacts.latent_cache.read import open_cache
from mdt_cli.artifacts.latent_cache.sources import CONTENTS, read_contents
from mdt_cli.errors import MdtError
from mdt_cli.services.encode.content_record import without_contents
from mdt_cli.services.encode.origin import NEW_FOLDER, Origin, check_unchanged, difference
from mdt_cli.services.events import Event, Note, Warned


def verify_images(folder: Path, path: Path, origin: Callable[[], Origin]) -> Iterator[Event]:
    """Compare all checksums of a finished cache, and the images at `path`, with its manifest.

    Images are compared by name, so that those of a cache with a limit are found again.
    """
    open_cache(folder, verify=True)
    manifest, _ = read_manifest(folder)
    if "contents" not in manifest:
        yield Note(without_contents(folder))
        return
    if not path.exists():
        yield Warned(f"{path} does not exist: the shards are intact, the images were not compared")
        return
    held = read_contents(folder, manifest)
    if held is None:
        raise MdtError(
            f"{folder / CONTENTS} is missing or damaged",
            "run the same command without --verify: it is made again from the images",
        )
    found = origin()
    places = _places(found.names)
    positions = [places.get(key) for key in _numbered([name for name, _ in held])]
    if None in positions:
        kept = [name for (name, _), k in zip(held, positions, strict=True) if k is not None]
        gone = difference([name for name, _ in held], kept)
        raise MdtError(f"images of {folder} are not in {path}{gone}", NEW_FOLDER)
    there = [position for position in positions if position is not None]
    more = len(found.names) - len(there)
    yield from check_unchanged(found, there, [digest for _, digest in held], {}, folder)
    yield Note(
        f"the {len(there)} images have the content that was encoded"
        + (f"; {more} more in {path} are not in the cache" if more else "")
    )


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with how often it came before: an archive may hold a name twice."""
    counts: dict[str, int] = {}
    found = []
    for name in names:
        found.append((name, counts.get(name, 0)))
        counts[name] = counts.get(name, 0) + 1
    return found


def _places(names: Sequence[str]) -> dict[tuple[str, int], int]:
    return {key: position for position, key in enumerate(_numbered(names))}
