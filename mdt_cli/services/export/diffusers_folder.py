"""A folder that `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads.

It does not need `mdt`: the folder carries the code of network and sampler, taken from our own
sources. Their file names end in a digest of their content, since diffusers keeps the code of all
local folders in one cache, where files of two versions must not collide.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mdt_cli.config.sampling import (
    ConstantGuidanceConfig,
    InternalGuidanceConfig,
    IntervalGuidanceConfig,
    NoGuidanceConfig,
    PowerCosineGuidanceConfig,
    SamplingConfig,
)
from mdt_cli.core.codecs.codec import Codec
from mdt_cli.core.model.shape import TransformerShape
from mdt_cli.errors import MdtError
from mdt_cli.files import temporary_beside
from mdt_cli.services.build.network import shape_of
from mdt_cli.services.export.inline import bundle
from mdt_cli.services.export.model_card import class_names
from mdt_cli.services.model import EARLY_HEAD, Inputs, LoadedModel, largest_difference

WEIGHTS, CONFIG, INDEX = "diffusion_pytorch_model.safetensors", "config.json", "model_index.json"
TABLES = {
    "mdt_cli.config.sampling": (
        NoGuidanceConfig,
        ConstantGuidanceConfig,
        PowerCosineGuidanceConfig,
        IntervalGuidanceConfig,
        InternalGuidanceConfig,
        SamplingConfig,
    )
}
NOTICE = "Made by `mdt export` from the sources of mdt (Apache-2.0); changes here are lost."


def write_folder(folder: Path, trained: LoadedModel, codec: Codec) -> None:
    """Everything but the model card, into an existing empty folder."""
    import diffusers

    pipeline = bundle(
        "mdt_cli.services.export.templates.pipeline",
        f"Sampling with a denoising transformer.\n\n{NOTICE}\n",
        TABLES,
    )
    network = bundle(
        "mdt_cli.services.export.templates.transformer", f"The denoising transformer.\n\n{NOTICE}\n"
    )
    pipeline_name = write_code(folder, "mdt_pipeline", pipeline)
    transformer = folder / "transformer"
    transformer.mkdir()
    network_name = write_code(transformer, "mdt_transformer", network)
    write_hub_json(
        transformer / CONFIG,
        {
            "_class_name": "MdtTransformer2DModel",
            "_diffusers_version": diffusers.__version__,
            **exported_shape(trained).flat(),
        },
    )
    tensors = {
        f"network.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in trained.network.named_parameters()
        if exported_shape(trained).early_head_at or not name.startswith(EARLY_HEAD)
    }
    save_file(tensors, transformer / WEIGHTS, {"format": "pt"})
    write_hub_json(
        folder / INDEX,
        {
            "_class_name": [pipeline_name, "MdtPipeline"],
            "_diffusers_version": diffusers.__version__,
            "transformer": [network_name, "MdtTransformer2DModel"],
            "vae": write_codec(folder, codec),
            "objective": trained.config.objective.model_dump(mode="json"),
            "sampling": trained.config.sampling.model_dump(mode="json"),
            "codec": _codec_facts(codec),
            "id2label": {str(i): name for i, name in enumerate(class_names(trained))},
        },
    )


def exported_shape(trained: LoadedModel) -> TransformerShape:
    """What the network was built from; channels and classes from the data it was trained on.

    Without its early head, unless the sampling of its run is guided by it.
    """
    channels, height, width = trained.facts["latent_shape"]
    model = trained.config.model
    if trained.config.sampling.guidance.kind != "internal":
        model = model.model_copy(update={"early_head_at": 0})
    return shape_of(
        model,
        (channels, height, width),
        out_channels=channels * trained.loss.out_multiplier,
        num_classes=trained.num_classes,
    )


def write_codec(folder: Path, codec: Codec) -> list[str | None]:
    """Copy the autoencoder to `vae/`; its entry in the index, nulls where there is none."""
    from mdt_cli.core.codecs.autoencoder import AutoencoderCodec

    if not isinstance(codec, AutoencoderCodec):
        return [None, None]
    codec.save(folder / "vae")
    return ["diffusers", codec.facts()["kind"]]


def _codec_facts(codec: Codec) -> dict[str, Any]:
    facts = codec.facts()
    return {key: facts[key] for key in ("name", "shift", "scale") if key in facts}


def write_code(folder: Path, stem: str, text: str) -> str:
    """Write STEM_DIGEST.py; its module name."""
    name = f"{stem}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    (folder / f"{name}.py").write_text(text, "utf-8")
    return name


def write_hub_json(path: Path, data: dict[str, Any]) -> None:
    """As diffusers writes its own: indented, not ASCII alone."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def difference(folder: Path, trained: LoadedModel, inputs: Inputs) -> float:
    """Load the folder as its users do; the largest difference of its network from ours."""
    pipeline = load_as_stranger(folder)

    def theirs(x: Tensor, t_B: Tensor, y_B: Tensor | None) -> Tensor:
        output, *_ = pipeline.transformer(x, t_B, y_B, return_dict=False)
        return torch.as_tensor(output)

    return largest_difference(trained.network, theirs, inputs)


def check_module_cache() -> None:
    """MdtError where diffusers cannot keep the code of the models that it loads."""
    from diffusers.utils.constants import HF_MODULES_CACHE

    cache = Path(HF_MODULES_CACHE)
    if not cache.is_absolute():
        # diffusers looks for a parent of such a path without end.
        raise MdtError(
            f"HF_HOME or HF_MODULES_CACHE is set to a relative path, or to none: {cache}",
            "unset it, or set it to an absolute path",
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        probe = temporary_beside(cache / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise MdtError(
            f"diffusers keeps the code of the models that it loads in {cache}, which cannot be "
            f"written: {error.strerror or error}",
            "set HF_HOME to a folder that can be written, as in HF_HOME=/tmp/hf before the command",
        ) from error


def load_as_stranger(folder: Path) -> Any:
    """`DiffusionPipeline.from_pretrained`; MdtError where diffusers may not run the code."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging
    from diffusers.utils.constants import DIFFUSERS_DISABLE_REMOTE_CODE

    if DIFFUSERS_DISABLE_REMOTE_CODE:
        raise MdtError(
            "the exported folder cannot be verified: DIFFUSERS_DISABLE_REMOTE_CODE is set",
            "unset it for this command; the code that runs is mdt's own",
        )
    check_module_cache()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of the remote code, which is ours
    logging.disable_progress_bar()
    try:
        return DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True)
    except PermissionError as error:
        raise MdtError(
            f"the exported folder cannot be verified: {error}",
            "diffusers copies model code to HF_HOME: set it to a writable folder",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def usage(trained: LoadedModel) -> str:
    """Python lines for the model card that generate images."""
    names = class_names(trained)
    labels = f"class_labels={json.dumps(list(names[:4]), ensure_ascii=False)}, " if names else ""
    count = min(len(names), 4) or 4
    return f"""
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)
images = pipe({labels}seeds={list(range(count))}).images
images[0].save("first.png")
"""
