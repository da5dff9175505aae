"""A plain DiT as diffusers' own DiTTransformer2DModel, with DiTPipeline around it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mdt_cli.config.model import ModelConfig
from mdt_cli.core.codecs.codec import Codec
from mdt_cli.core.model.heads import Head
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.errors import MdtError
from mdt_cli.services.build.objective import diffusion_of
from mdt_cli.services.export.diffusers_folder import (
    CONFIG,
    INDEX,
    NOTICE,
    WEIGHTS,
    write_code,
    write_codec,
    write_hub_json,
)
from mdt_cli.services.export.inline import bundle
from mdt_cli.services.export.model_card import class_names
from mdt_cli.services.model import Inputs, LoadedModel, largest_difference

# DiTPipeline asks row 1000 of the label table for "no class", whatever the number of classes.
NULL_ROW = 1000


def require_plain_dit(trained: LoadedModel) -> None:
    """MdtError that names everything DiTTransformer2DModel cannot represent."""
    misfits = list(_misfits(trained))
    if misfits:
        raise MdtError(
            "this network is not a plain DiT: " + "; ".join(misfits), "use --format diffusers"
        )


def _misfits(trained: LoadedModel) -> Iterator[str]:
    model, chain = trained.config.model, diffusion_of(trained.loss).chain
    _, height, width = trained.facts["latent_shape"]
    if chain is None:
        yield f"its objective is {trained.loss.kind}, not epsilon"
    elif not chain.learned_variance:
        yield "its variance is not learned"
    elif chain.first_time:
        yield "its times start at 1"
    if model.condition != "adaln":
        yield f"its condition is {model.condition}, not adaln"
    parts = ("norm", "mlp", "qk_norm", "rope", "patch_bottleneck", "class_tokens")
    for name in parts:
        value, default = getattr(model, name), ModelConfig.model_fields[name].default
        if value != default:
            yield f"its {name} is {value}, not {default}"
    if model.null_label != "learned":
        yield "its null class is zeros"
    if model.narrow_decoder.depth:
        yield "it has a narrow decoder"
    if model.output_conv:
        yield "it has a convolution after its head"
    if model.positions != "fixed":
        yield f"its positions are {model.positions}, not fixed"
    if model.relative_bias:
        yield "it has a relative position bias"
    if model.decoder_depth:
        yield "it has a decoder"
    if model.long_skips:
        yield "it has long skips"
    if model.mlp_ratio != 4:
        yield f"its mlp_ratio is {model.mlp_ratio:g}, not 4"
    if height != width:
        yield f"its latents are {height} x {width}, not square"
    if trained.network.label is None:
        yield "it has no classes"
    elif trained.facts["num_classes"] > NULL_ROW:
        yield f"it has {trained.facts['num_classes']} classes; DiTPipeline supports {NULL_ROW}"


def require_autoencoder_kl(codec: Codec) -> None:
    """MdtError where DiTPipeline cannot decode the latents."""
    kind = codec.facts().get("kind", codec.name)
    if kind != "AutoencoderKL":
        raise MdtError(
            f"DiTPipeline decodes with AutoencoderKL; this network's codec is {kind}",
            "use --format diffusers",
        )


def write_folder(folder: Path, trained: LoadedModel, codec: Codec) -> None:
    """Everything but the model card, into an existing empty folder."""
    import diffusers

    model, shape = trained.config.model, trained.facts["latent_shape"]
    transformer = folder / "transformer"
    transformer.mkdir()
    title = f"A denoising transformer.\n\n{NOTICE}\n"
    code = bundle("mdt_cli.services.export.templates.dit", title)
    name = write_code(transformer, "mdt_dit", code)
    arguments = {
        "num_attention_heads": model.num_heads,
        "attention_head_dim": model.hidden_size // model.num_heads,
        "in_channels": shape[0],
        "out_channels": 2 * shape[0],
        "num_layers": model.depth,
        "sample_size": shape[1],
        "patch_size": model.patch_size,
        "num_embeds_ada_norm": NULL_ROW,
        "norm_eps": 1e-6,
    }
    version = {"_diffusers_version": diffusers.__version__}
    write_hub_json(
        transformer / CONFIG, {"_class_name": "DiTTransformer2DModel", **version, **arguments}
    )
    tensors = {key: tensor.detach().clone() for key, tensor in _tensors(trained.network)}
    save_file(tensors, transformer / WEIGHTS, {"format": "pt"})
    scheduler = folder / "scheduler"
    scheduler.mkdir()
    write_hub_json(scheduler / "scheduler_config.json", _scheduler(trained) | version)
    write_hub_json(
        folder / INDEX,
        {
            "_class_name": "DiTPipeline",
            **version,
            "transformer": [name, "MdtDiTTransformer2DModel"],
            "vae": write_codec(folder, codec),
            "scheduler": ["diffusers", "DDIMScheduler"],
            # DiTPipeline splits names at commas, where ImageNet lists synonyms.
            "id2label": {str(i): name for i, name in enumerate(class_names(trained))},
        },
    )


def _scheduler(trained: LoadedModel) -> dict[str, Any]:
    chain = diffusion_of(trained.loss).chain
    assert chain is not None
    scale = 1000 / chain.num_timesteps
    name, start, end = {
        "linear": ("linear", 1e-4, 2e-2),
        "scaled_linear": ("scaled_linear", 0.00085, 0.012),
        # This one has no ends; diffusers wants some all the same.
        "cosine": ("squaredcos_cap_v2", 1e-4, 2e-2),
    }[chain.betas]
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": chain.num_timesteps,
        "beta_start": scale * start,
        "beta_end": min(scale * end, 0.999),
        "beta_schedule": name,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        # The one spacing that agrees with how DDIMScheduler finds the step before.
        "timestep_spacing": "trailing",
    }


def _tensors(network: Transformer) -> Iterator[tuple[str, Tensor]]:
    """(diffusers' name, tensor): every block holds a copy of the embeddings and its own rows."""
    assert network.label is not None
    assert network.time is not None
    assert network.modulation is not None
    assert isinstance(network.head, Head)
    table = network.label.table.weight
    # Rows without a class are the null row as well.
    padded = torch.cat([table[:-1], table[-1:].expand(NULL_ROW + 2 - len(table), -1)])
    depth = len(network.blocks)
    rows = network.modulation.linear.out_features // depth
    yield from _pair("pos_embed.proj", network.patches.conv)
    for i, block in enumerate(network.blocks):
        here = f"transformer_blocks.{i}"
        yield from _pair(f"{here}.norm1.emb.timestep_embedder.linear_1", network.time.fc1)
        yield from _pair(f"{here}.norm1.emb.timestep_embedder.linear_2", network.time.fc2)
        yield f"{here}.norm1.emb.class_embedder.embedding_table.weight", padded
        for kind, tensor in network.modulation.linear.named_parameters():
            yield f"{here}.norm1.linear.{kind}", tensor[i * rows : (i + 1) * rows]
        attention: Any = block.attn
        for kind, tensor in attention.qkv.named_parameters():
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{here}.attn1.to_{part}.{kind}", chunk
        yield from _pair(f"{here}.attn1.to_out.0", attention.proj)
        mlp: Any = block.mlp
        yield from _pair(f"{here}.ff.net.0.proj", mlp.fc1)
        yield from _pair(f"{here}.ff.net.2", mlp.fc2)
    yield from _pair("proj_out_1", network.head.modulation.linear)
    yield from _pair("proj_out_2", network.head.linear)


def _pair(name: str, module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    for kind, tensor in module.named_parameters():
        yield f"{name}.{kind}", tensor


def plain_difference(folder: Path, trained: LoadedModel, inputs: Inputs) -> float:
    """Largest difference between diffusers' own class and ours, for the model card."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained(str(folder / "transformer"))

    def theirs(x: Tensor, t_B: Tensor, y_B: Tensor | None) -> Tensor:
        return torch.as_tensor(model(x, t_B, y_B, return_dict=False)[0])

    return largest_difference(trained.network, theirs, inputs)


def usage(trained: LoadedModel) -> str:
    """Python lines for the model card that generate an image."""
    first = json.dumps(class_names(trained)[0], ensure_ascii=False)
    scale = getattr(trained.config.sampling.guidance, "scale", 1.0)
    return f"""
import torch
from diffusers import DiTPipeline

pipe = DiTPipeline.from_pretrained("path/to/this/folder", trust_remote_code=True)
labels = pipe.get_label_ids([{first}])
image = pipe(labels, guidance_scale={scale}, generator=torch.manual_seed(0)).images[0]
image.save("first.png")
"""


def caveats(trained: LoadedModel) -> tuple[str, ...]:
    """How DiTPipeline differs from `mdt sample`, for the model card."""
    sampling = trained.config.sampling
    found = [
        "DiTPipeline ignores the learned variance and uses the scheduler's own. "
        f"The scheduler here is DDIM; the run was set to {sampling.solver}, "
        f"{sampling.steps} steps.",
        "DiTPipeline guides all latent channels with one constant scale; the run was set to "
        f"{sampling.guidance.model_dump(mode='json')}.",
        "DiTPipeline undoes the scaling_factor of the autoencoder alone, not a shift_factor or "
        "latents_mean.",
        f"DiTPipeline uses row {NULL_ROW} of the label table as the null class. The table was "
        "padded to fit; indices above the last class generate unconditional images.",
        "The same seed does not give the same image as `mdt sample`.",
        "Without `trust_remote_code`, load `DiTTransformer2DModel`, `AutoencoderKL` and "
        "`DDIMScheduler` from the subfolders by `from_pretrained` and give them to "
        "`DiTPipeline(...)`; classes are then chosen by index. The time embedding then divides "
        "its frequencies into 127 parts instead of 128, "
        "which this network was not trained with.",
    ]
    if any("," in name for name in class_names(trained)):
        found.append("Class names with a comma are split into several names.")
    return tuple(found)
