"""`mdt encode-latents`: images to a latent cache."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from mdt_cli.cli.options import (
    Device,
    FileColumn,
    Json,
    LabelBefore,
    LabelBeforeLast,
    LabelColumn,
    Labels,
    Only,
)
from mdt_cli.cli.output import emit, emit_json, human_bytes, talk, warn
from mdt_cli.cli.progress import Bar, shown_events

SHOWN_SKIPPED, SHOWN_CLASSES = 10, 20


def encode_latents(
    images: Annotated[
        Path,
        typer.Argument(
            help="A folder (of class folders, or flat), zip, WebDataset tars, EDM2 zip, Hugging "
            "Face parquet folder; or features of fast-DiT or LightningDiT, which are converted."
        ),
    ],
    cache: Annotated[Path, typer.Argument(help="The folder for the cache.")],
    codec: Annotated[
        str | None,
        typer.Option(
            help="pixels, or a diffusers autoencoder: a folder or a Hugging Face id.",
            show_default="pixels",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the square that images are cropped to, in pixels; 32 for CIFAR.",
            show_default="256",
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Also encode the mirror image of every image.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Decoding processes; 0 decodes in the main process.", show_default="one per core"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Use only this many images, evenly spread.", show_default="all"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per batch of the codec.")] = 32,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail at the first unreadable image.")
    ] = False,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="Ignore all class labels.")
    ] = False,
    only: Only = None,
    labels: Labels = None,
    file_column: FileColumn = None,
    label_column: LabelColumn = None,
    label_before: LabelBefore = None,
    label_before_last: LabelBeforeLast = None,
    white: Annotated[
        int | None,
        typer.Option(
            help="The value of 16-bit grey images that is white; 4095 for 12-bit data.",
            show_default="65535",
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(help="Rows per file.", show_default="up to 2048, at most 128 MiB"),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Only check a finished cache and its images, every byte."),
    ] = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Encode images into a latent cache. Rerun the same command to resume.

    Example: mdt encode-latents photos cache --codec stabilityai/sd-vae-ft-ema --size 256 --flip
    """
    from mdt_cli.services.encode.encode import encode_latents as service
    from mdt_cli.services.encode.request import EncodeRequest
    from mdt_cli.services.events import CacheDone
    from mdt_cli.services.reading import reading_of

    request = EncodeRequest(
        images=images,
        cache=cache,
        codec=codec,
        size=size,
        flip=flip,
        dtype=dtype,
        workers=workers,
        limit=limit,
        batch_size=batch_size,
        strict=strict,
        unconditional=unconditional,
        shard_size=shard_size,
        device=device,
        verify=verify,
        white=white,
        reading=reading_of(
            only, labels, file_column, label_column, label_before, label_before_last
        ),
    )
    done = None
    with Bar("encoding", "images") as bar, closing(service(request)) as events:
        for event in shown_events(events, bar):
            if isinstance(event, CacheDone):
                done = event
    if done is None:
        return
    if done.unchanged:
        talk(f"{done.path} is complete and every checksum matches: nothing to do")
    for name, reason in done.skipped[:SHOWN_SKIPPED]:
        warn(f"skipped {name}: {reason}")
    if len(done.skipped) > SHOWN_SKIPPED:
        rest = len(done.skipped) - SHOWN_SKIPPED
        warn(f"{rest} more were skipped; all are listed in {done.path}/manifest.json")
    if json:
        emit_json(
            {
                "path": done.path,
                "count": done.count,
                "classes": dict(zip(done.class_names, done.class_counts, strict=True)),
                "codec": done.codec,
                "image_size": done.image_size,
                "latent_shape": list(done.latent_shape),
                "modes": done.modes,
                "enlarged": done.enlarged,
                "skipped": [{"name": name, "reason": reason} for name, reason in done.skipped],
                "bytes": done.bytes,
                "digest": done.digest,
                "unchanged": done.unchanged,
            }
        )
        return
    shape = "x".join(str(side) for side in done.latent_shape)
    emit(f"{done.path}: {done.count} rows of {shape} ({done.codec}), {human_bytes(done.bytes)}")
    if done.class_names:
        pairs = list(zip(done.class_names, done.class_counts, strict=True))
        listed = ", ".join(f"{name} {count}" for name, count in pairs[:SHOWN_CLASSES])
        more = ", ..." if len(pairs) > SHOWN_CLASSES else ""
        emit(f"{len(pairs)} classes: {listed}{more}")
    else:
        emit("no classes: for unconditional training")
    if done.skipped:
        emit(f"{len(done.skipped)} skipped")
