"""Sampling as a diffusers pipeline; bundled into exported folders, never imported by `mdt`."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from PIL import Image
from torch import Tensor

from mdt_cli.config.sampling import (
    ConstantGuidanceConfig,
    InternalGuidanceConfig,
    IntervalGuidanceConfig,
    NoGuidanceConfig,
    PowerCosineGuidanceConfig,
    SamplingConfig,
)
from mdt_cli.core.batch import Answer
from mdt_cli.core.objectives.base import Diffusion
from mdt_cli.core.objectives.edm import Edm
from mdt_cli.core.objectives.epsilon import Epsilon
from mdt_cli.core.objectives.flow import Flow
from mdt_cli.core.sampling.to_uint8 import to_uint8
from mdt_cli.services.build.sampler import generate


class MdtPipeline(DiffusionPipeline):
    """Generates images as `mdt sample` does: image k depends on class k and seed k alone.

    id2label: class names by index (as text). objective, sampling: the training objective and the
    settings that a call without arguments uses. codec: "pixels", or shift and scale of the vae.
    """

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["vae"]  # noqa: RUF012 (diffusers reads a list of this name)

    def __init__(
        self,
        transformer: ModelMixin,
        vae: ModelMixin | None = None,
        objective: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None,
        codec: dict[str, Any] | None = None,
        id2label: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae)
        self.register_to_config(
            objective=objective, sampling=sampling, codec=codec, id2label=id2label or {}
        )

    @property
    def labels(self) -> dict[str, int]:
        """Class indices by name; of classes with the same name, the first."""
        found: dict[str, int] = {}
        for index, name in sorted((int(key), name) for key, name in self.config.id2label.items()):
            found.setdefault(name, index)
        return found

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seeds: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        batch_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """One image per class label and seed; steps and guidance as the model was saved with.

        class_labels: indices or names; None: each seed chooses its class. seeds: None draws them
        from `generator`, or from torch's own. batch_size: the number of images where neither
        labels nor seeds determine it. output_type: "pil", "np" and "pt" (0..1), or "latent".
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f'output_type is "pil", "np", "pt" or "latent", not {output_type!r}')
        if guidance_scale not in (None, 1) and self.transformer.config.num_classes == 0:
            raise ValueError("this model has no classes to guide by: leave out guidance_scale")
        classes = None if class_labels is None else self.get_label_ids(class_labels)
        chosen = _seeds(seeds, generator, _count(classes, seeds, batch_size))
        if classes is not None and len(classes) != len(chosen):
            raise ValueError(f"{len(classes)} class_labels for {len(chosen)} seeds")
        device = self._execution_device
        latents = generate(
            self._network,
            _diffusion(self.config.objective),
            _settings(self.config.sampling, num_inference_steps, guidance_scale),
            tuple(self.transformer.config.latent_shape),
            self.transformer.config.num_classes,
            chosen,
            classes,
            device,
        )
        images = latents if output_type == "latent" else self._shown(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def get_label_ids(self, labels: int | str | Sequence[int | str]) -> list[int]:
        """Class indices of names or indices. ValueError for an unknown class."""
        known, num_classes = self.labels, self.transformer.config.num_classes
        if num_classes == 0:
            raise ValueError("this model has no classes: leave out class_labels")
        given = [labels] if isinstance(labels, int | str) else list(labels)
        ids = []
        for label in given:
            index = known.get(label) if isinstance(label, str) else int(label)
            if index is None:
                raise ValueError(f"no class {label!r}; there are {', '.join(known)}")
            if not 0 <= index < num_classes:
                raise ValueError(f"no class {index}; there are 0 to {num_classes - 1}")
            ids.append(index)
        return ids

    def _network(self, x: Tensor, t: Tensor, y: Tensor | None) -> Answer:
        final, *early = self.transformer(x, t, y, return_dict=False)
        return Answer(final.float(), early=early[0].float() if early else None)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W], about -1..1."""
        if self.vae is None:
            return latents
        shift, scale = (
            torch.tensor(self.config.codec[key], device=latents.device)
            for key in ("shift", "scale")
        )
        z = latents.float() / scale[:, None, None] + shift[:, None, None]
        # Autoencoders that overflow in float16 have force_upcast: float32, as in diffusers.
        narrow = self.vae.dtype
        upcast = narrow == torch.float16 and self.vae.config.get("force_upcast")
        if upcast:
            self.vae.to(torch.float32)
        images = self.vae.decode(z.to(self.vae.dtype)).sample.float()
        if upcast:
            self.vae.to(narrow)
        return images

    def save_config(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the index, and this file beside it, which the index then names as its class."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        code, index = Path(__file__), Path(save_directory) / self.config_name
        index.with_name(code.name).write_bytes(code.read_bytes())
        entries = json.loads(index.read_text("utf-8"))
        entries["_class_name"] = [code.stem, type(self).__name__]
        index.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def _shown(self, latents: Tensor, output_type: str) -> Any:
        images = self.decode(latents)
        if output_type == "pil":
            pixels = to_uint8(images, self.config.sampling["uint8"])
            return [Image.fromarray(array) for array in pixels.numpy()]
        unit = (images.float() / 2 + 0.5).clamp(0, 1)
        return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()


def _count(
    classes: list[int] | None, seeds: int | Sequence[int] | None, batch_size: int | None
) -> int:
    given = None if classes is None else len(classes)
    if given is None and seeds is not None:
        given = 1 if isinstance(seeds, int) else len(seeds)
    if given is None:
        return 1 if batch_size is None else batch_size
    if batch_size not in (None, given):
        raise ValueError(f"batch_size {batch_size} with {given} class_labels or seeds")
    return given


def _seeds(
    seeds: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    count: int,
) -> list[int]:
    if seeds is not None:
        return [seeds] if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} images")
        return [_draw_seeds(one, 1)[0] for one in generator]
    return _draw_seeds(generator, count)


def _draw_seeds(generator: torch.Generator | None, count: int) -> list[int]:
    device = "cpu" if generator is None else generator.device
    drawn = torch.randint(2**31, (count,), generator=generator, device=device)
    return [int(seed) for seed in drawn]


def _diffusion(table: Mapping[str, Any]) -> Diffusion:
    match table["kind"]:
        case "epsilon":
            return Epsilon(
                table["num_timesteps"],
                table["learned_variance"],
                betas=table["betas"],
                first_time=table["first_time"],
            )
        case "edm":
            return Edm(sigma_data=table["sigma_data"])
        case "flow":
            return Flow(predict=table["predict"], noise_scale=table["noise_scale"])
        case kind:
            raise ValueError(f"no such objective: {kind}")


def _settings(table: Mapping[str, Any], steps: int | None, scale: float | None) -> SamplingConfig:
    """The saved settings with what a call changes."""
    variants = {
        "none": NoGuidanceConfig,
        "constant": ConstantGuidanceConfig,
        "power_cosine": PowerCosineGuidanceConfig,
        "interval": IntervalGuidanceConfig,
        "internal": InternalGuidanceConfig,
    }
    saved = table["guidance"]
    guidance = variants[saved["kind"]](**saved)
    if scale == 1:
        guidance = NoGuidanceConfig()
    elif scale is not None and isinstance(guidance, NoGuidanceConfig):
        guidance = ConstantGuidanceConfig(scale=scale)
    elif scale is not None:
        guidance = replace(guidance, scale=scale)
    settings = SamplingConfig(**{**table, "guidance": guidance})
    # A dataclass in the exported file, where this runs; a pydantic table here.
    return settings if steps is None else replace(settings, steps=steps)  # type: ignore[type-var]
