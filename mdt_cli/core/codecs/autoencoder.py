"""Any diffusers autoencoder as a codec: its own shift and scale applied, its weights identified."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdt_cli.core.codecs.find_autoencoder import CONFIG, find_autoencoder
from mdt_cli.errors import MdtError

NAME = "autoencoder"


class AutoencoderCodec:
    """latents = (z - shift) * scale, per channel; made by `load_autoencoder` or `reload`."""

    name = NAME

    def __init__(
        self,
        model: nn.Module,
        kind: str,
        id: str,
        digest: str,
        shift: list[float],
        scale: list[float],
    ) -> None:
        self._model: Any = model
        self._kind, self._id, self._digest = kind, id, digest
        self._device = next(model.parameters()).device
        self._on_cpu = self._device.type == "cpu"
        self._dtype = next(model.parameters()).dtype
        self._shift, self._scale = shift, scale
        mean, std = self._moments(torch.zeros(1, 3, 64, 64))
        self._channels, self._downsampling = mean.shape[1], 64 // mean.shape[2]
        self._stochastic = std is not None
        if len(shift) == 1:
            self._shift, self._scale = shift * self._channels, scale * self._channels

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """[C, H, W]; MdtError where the downsampling does not divide the side."""
        if image_size % self._downsampling:
            raise MdtError(
                f"images of {image_size} pixels do not fit {self._id}, which divides them "
                f"by {self._downsampling}",
                f"set --size to a multiple of {self._downsampling}",
            )
        side = image_size // self._downsampling
        return (self._channels, side, side)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation; on a CPU the same bits for any number of threads."""
        mean, std = self._one_by_one(images) if self._on_cpu else self._moments(images)
        shift, scale = self._per_channel(self._shift), self._per_channel(self._scale)
        return (mean - shift) * scale, None if std is None else std * scale.abs()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [B,3,S,S], float32."""
        shift, scale = self._per_channel(self._shift), self._per_channel(self._scale)
        z = latents.to(self._device, torch.float32) / scale + shift
        images: Tensor = self._model.decode(z.to(self._dtype)).sample
        return images.float()

    def facts(self) -> dict[str, Any]:
        """Class, id, digest of the weights, shift and scale per channel."""
        return {
            "name": NAME,
            "kind": self._kind,
            "id": self._id,
            "weights_sha256": self._digest,
            "shift": self._shift,
            "scale": self._scale,
            "downsampling": self._downsampling,
            "stochastic": self._stochastic,
        }

    def _one_by_one(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Each image on its own in one thread, several images at a time.

        A convolution split among threads rounds differently for each number of threads; this
        way a cache has the same bytes on every machine, at the same speed.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(self._moments, images.split(1)))
        finally:
            torch.set_num_threads(threads)
        spread = [std for _, std in done if std is not None]
        return torch.cat([mean for mean, _ in done]), torch.cat(spread) if spread else None

    def save(self, folder: Path) -> None:
        """Write the autoencoder as diffusers does, without the path it was loaded from."""
        self._model.save_pretrained(folder)
        path = folder / CONFIG
        config = json.loads(path.read_text("utf-8"))
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    @torch.inference_mode()
    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The latents before shift and scale, float32, and their spread where there is one."""
        encoded = self._model.encode(images.to(self._device, self._dtype))
        match self._kind:
            case "AutoencoderKL":
                # diffusers clamps the logarithm of the variance to -30..20.
                posterior = encoded.latent_dist
                return posterior.mean.float(), posterior.std.float()
            case "AutoencoderDC":
                return encoded.latent.float(), None
            case _:
                # VQModel: latents before quantisation; its decoder quantises.
                return encoded.latents.float(), None

    def _per_channel(self, values: list[float]) -> Tensor:
        return torch.tensor(values, device=self._device)[:, None, None]


def load_autoencoder(
    id_or_folder: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> AutoencoderCodec:
    """Load an autoencoder from a folder or by its Hugging Face id.

    Raises MdtError where it cannot be found or reached, or is of a kind that we do not know.
    """
    model, kind, place = find_autoencoder(id_or_folder)
    shift, scale = _normalisation(model.config, place)
    digest = weights_digest(model)
    return AutoencoderCodec(_placed(model, device, dtype), kind, place, digest, shift, scale)


def reload(
    facts: Mapping[str, Any],
    device: torch.device,
    override: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> AutoencoderCodec:
    """The autoencoder that a cache names, with the shift and scale that the cache was made with.

    `override` is another id or folder of the same weights; other weights are an MdtError. Without
    a digest in the facts (imported weights) only kind and latent shape are compared.
    """
    place = override or facts.get("id")
    if place is None:
        raise MdtError(
            "the cache does not record which autoencoder made its latents",
            "name it with --codec (a Hugging Face id or a folder)",
        )
    model, kind, place = find_autoencoder(str(place))
    digest, expected = weights_digest(model), facts.get("weights_sha256")
    if expected is not None and digest != expected:
        raise MdtError(
            f"the autoencoder at {place} is not the one the latents were made with: "
            f"its weights have digest {digest[:12]}, the cache records {expected[:12]}",
            "name the right one with --codec (a Hugging Face id or a folder)",
        )
    model, shift, scale = _placed(model, device, dtype), list(facts["shift"]), list(facts["scale"])
    codec = AutoencoderCodec(model, kind, place, digest, shift, scale)
    has = {"kind": kind, "channels": codec._channels, "downsampling": codec._downsampling}
    wanted = {
        "channels": len(scale),
        **{k: facts[k] for k in ("kind", "downsampling") if k in facts},
    }
    differing = [
        f"{key} {has[key]}, not {wanted[key]}" for key in wanted if has[key] != wanted[key]
    ]
    if differing:
        raise MdtError(
            f"the autoencoder at {place} does not fit the latents: it has {', '.join(differing)}",
            "name the right one with --codec (a Hugging Face id or a folder)",
        )
    return codec


def _placed(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    model = model.eval().requires_grad_(False).to(device)
    # diffusers warns of every cast, even of one that changes nothing.
    return model if dtype == torch.float32 else model.to(dtype)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values: the same for every file format."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {list(tensor.shape)}\n".encode())
        state.update(tensor.detach().float().cpu().contiguous().numpy())
    return state.hexdigest()


def _normalisation(config: Any, place: str) -> tuple[list[float], list[float]]:
    """(shift, scale), each of one value or one per channel, from what the config says.

    `latents_mean` and `latents_std` go with `scaling_factor`; `shift_factor` is subtracted.
    """
    factor = config.get("scaling_factor")
    factor = 1.0 if factor is None else float(factor)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return [float(m) for m in mean], [factor / float(s) for s in std]
    if factor == 0:
        raise MdtError(f"the {CONFIG} of {place} has scaling_factor 0", "correct it")
    return [float(config.get("shift_factor") or 0.0)], [factor]
