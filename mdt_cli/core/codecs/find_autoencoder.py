"""Finds and loads an autoencoder: in a folder, or by its Hugging Face id."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mdt_cli.errors import MdtError

KINDS = ("AutoencoderKL", "AutoencoderTiny", "VQModel", "AutoencoderDC")
CONFIG = "config.json"
# Folders of a pipeline that may hold its autoencoder.
SUBFOLDERS = ("vae", "vqvae", "vqgan", "movq")


def find_autoencoder(id_or_folder: str) -> tuple[Any, str, str]:
    """The autoencoder in float32 on the CPU, its class name, and its id or absolute folder.

    MdtError where it cannot be found, reached or read, or is of a kind that is not supported.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = Path(id_or_folder).expanduser()
    if folder.is_dir():
        place, inside = str(folder.resolve()), [None if (folder / CONFIG).is_file() else ""]
        if inside == [""]:
            inside = [name for name in SUBFOLDERS if (folder / name / CONFIG).is_file()]
        if not inside:
            raise MdtError(
                f"no autoencoder in {folder}: it has no {CONFIG}",
                "give a folder that diffusers saved an autoencoder or a pipeline to",
            )
        return _loaded(place, inside[0], local=True)
    if id_or_folder.startswith((".", "/", "~")) or id_or_folder.count("/") != 1:
        raise MdtError(
            f'no such codec: "{id_or_folder}" is neither pixels nor a folder nor a Hugging Face id',
            "write pixels, the path of a folder, or owner/name",
        )
    for subfolder in (None, *SUBFOLDERS):
        # A copy in the local cache is used without a request.
        name = f"{subfolder}/{CONFIG}" if subfolder else CONFIG
        if isinstance(try_to_load_from_cache(id_or_folder, name), str):
            with suppress(MdtError):
                return _loaded(id_or_folder, subfolder, local=True)
    return _loaded(id_or_folder, _hub_subfolder(id_or_folder), local=False)


def _hub_subfolder(id: str) -> str | None:
    """Where a repository keeps its autoencoder: at its root, or as a part of a pipeline."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for subfolder in (None, *SUBFOLDERS):
        try:
            hf_hub_download(id, CONFIG, subfolder=subfolder)
        except LocalEntryNotFoundError as error:
            raise _unreachable(id, error) from error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise _unreachable(id, error) from error
        return subfolder
    raise MdtError(f"no autoencoder in {id}: it has no {CONFIG}", "name another repository")


def _loaded(place: str, subfolder: str | None, local: bool) -> tuple[Any, str, str]:
    import diffusers

    where = f"{place}/{subfolder}" if subfolder else place
    try:
        config = diffusers.AutoencoderKL.load_config(
            place, subfolder=subfolder, local_files_only=local
        )
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise MdtError(f"the {CONFIG} of {where} cannot be read: {_first_line(error)}") from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    classes: dict[str, Any] = {
        "AutoencoderKL": diffusers.AutoencoderKL,
        "AutoencoderTiny": diffusers.AutoencoderTiny,
        "VQModel": diffusers.VQModel,
        "AutoencoderDC": diffusers.AutoencoderDC,
    }
    if kind not in classes:
        raise MdtError(
            f"{where} is a {kind}, which is not a supported codec",
            f"expected one of {', '.join(KINDS)}",
        )
    try:
        model = classes[kind].from_pretrained(
            place,
            subfolder=subfolder,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            local_files_only=local,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise MdtError(
            f"the autoencoder {where} cannot be loaded: {_first_line(error)}",
            "check that its folder holds config.json and diffusion_pytorch_model.safetensors",
        ) from error
    return model, kind, place


def _unreachable(id: str, error: Exception) -> MdtError:
    return MdtError(
        f"the autoencoder {id} is not in the local Hugging Face cache and could not be downloaded: "
        f"{_first_line(error)}",
        "go online, or give the path of a folder that holds it; `--codec pixels` needs no weights",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
