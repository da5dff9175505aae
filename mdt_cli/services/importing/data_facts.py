"""What official weights do not store about their data: codec and class names, for the header."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mdt_cli.core.codecs.codec import open_codec
from mdt_cli.errors import MdtError
from mdt_cli.json_reader import parse_json

PIXELS = "pixels"
# The autoencoders of the published systems are one encoder with two decoders; their facts are
# written down here, so that an import needs neither their weights nor a network.
PUBLISHED = ("stabilityai/sd-vae-ft-ema", "stabilityai/sd-vae-ft-mse")
PUBLISHED_SCALE, PUBLISHED_CHANNELS, PUBLISHED_DOWNSAMPLING = 0.18215, 4, 8


def data_facts(
    codec: str | None, classes: Path | None, latent_shape: tuple[int, int, int], num_classes: int
) -> dict[str, Any]:
    """The facts that a latent cache would give, for the header of weights. Raises MdtError."""
    codec_facts, downsampling = _codec(codec, latent_shape)
    names = read_class_names(classes, num_classes)
    return {
        "codec": codec_facts,
        "latent_shape": list(latent_shape),
        "image_size": latent_shape[1] * downsampling,
        "num_classes": num_classes,
        "class_names": [str(index) for index in range(num_classes)] if names is None else names,
        "class_names_known": names is not None,
    }


def published_codec(arguments: Mapping[str, Any]) -> str | None:
    """The autoencoder named in the training arguments of DiT ("ema" or "mse"); else None."""
    named = f"stabilityai/sd-vae-ft-{arguments.get('vae')}"
    return named if named in PUBLISHED else None


def _codec(codec: str | None, latent_shape: tuple[int, int, int]) -> tuple[dict[str, Any], int]:
    """Facts of the codec, and its downsampling factor."""
    channels = latent_shape[0]
    name = codec or {3: PIXELS, PUBLISHED_CHANNELS: PUBLISHED[0]}.get(channels)
    if name is None:
        raise MdtError(
            f"the network takes {channels} latent channels, and no published codec has that many",
            "name its autoencoder with --codec (a Hugging Face id or a folder)",
        )
    if name in PUBLISHED:
        _require_channels(name, PUBLISHED_CHANNELS, channels)
        return {
            "name": "autoencoder",
            "kind": "AutoencoderKL",
            "id": name,
            "weights_sha256": None,
            "shift": [0.0] * channels,
            "scale": [PUBLISHED_SCALE] * channels,
            "downsampling": PUBLISHED_DOWNSAMPLING,
            "stochastic": True,
        }, PUBLISHED_DOWNSAMPLING
    opened = open_codec(name, torch.device("cpu"))
    facts = opened.facts()
    downsampling = int(facts.get("downsampling", 1))
    _require_channels(name, opened.latent_shape(latent_shape[1] * downsampling)[0], channels)
    return facts, downsampling


def _require_channels(codec: str, has: int, wanted: int) -> None:
    if has != wanted:
        raise MdtError(
            f"the latents of {codec} have {has} channels, but the network takes {wanted}",
            "name the right codec with --codec",
        )


def read_class_names(path: Path | None, num_classes: int) -> list[str] | None:
    """Names in the order of their indices, from a file; None without one.

    One per line, a JSON list, or JSON like {"0": ["n01440764", "tench"]} (the last entry counts).
    """
    if path is None:
        return None
    if not num_classes:
        raise MdtError(f"--classes {path}: this network has no classes", "leave out --classes")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MdtError(f"--classes {path} cannot be read: {error}") from error
    names = _from_json(path, text) if path.suffix.lower() == ".json" else _lines(text)
    if len(names) != num_classes:
        raise MdtError(
            f"--classes {path} has {len(names)} names, but the network has {num_classes} classes",
            "give one name per class, in index order; add --set data.class_dropout=0 if the last "
            "row of the label table is a class, not the null class",
        )
    return names


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _from_json(path: Path, text: str) -> list[str]:
    try:
        held = parse_json(text)
    except ValueError as error:
        raise MdtError(f"--classes {path} is not valid JSON: {error}") from error
    if isinstance(held, Mapping) and all(str(key).isdigit() for key in held):
        by_index = {int(key): value for key, value in held.items()}
        held = [by_index[index] for index in sorted(by_index)]
        if sorted(by_index) != list(range(len(by_index))):
            raise MdtError(f"--classes {path}: the indices are not 0 to {len(by_index) - 1}")
    if not isinstance(held, list):
        raise MdtError(f"--classes {path} is not a list of names")
    return [str(entry[-1]) if isinstance(entry, list) and entry else str(entry) for entry in held]


def repeated(names: Sequence[str]) -> list[str]:
    """Names that several classes have; asking by name finds only the first."""
    return [name for name, count in Counter(names).items() if count > 1]
