"""From a path to a network that is ready to use: run folder, checkpoint folder or weights file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from mdt_cli.artifacts.checkpoint import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    DamagedError,
    checkpoints,
    ema_file,
    read_state,
)
from mdt_cli.artifacts.foreign_weights import refuse_torch_file
from mdt_cli.artifacts.weights import ONLINE, Header, fit_report, read_header, read_tensors
from mdt_cli.config.faults import fault_lines
from mdt_cli.config.run import RunConfig
from mdt_cli.core.batch import Batch
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.core.objectives.base import Loss
from mdt_cli.core.rng import stream
from mdt_cli.errors import MdtError
from mdt_cli.files import sha256_of
from mdt_cli.services.build.network import build_network
from mdt_cli.services.build.objective import build_loss
from mdt_cli.text import nearest

# Marks a folder of imported weights, and says where they are from.
IMPORTED = "import.json"
# Parameters of these parts serve masked passes alone.
TRAINING_ONLY = ("fill.", "interpolator.")
# Those of the early head serve its loss and internal guidance.
EARLY_HEAD = "early_head."


@dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode with all that its file records. `facts` are the cache's."""

    path: Path
    config: RunConfig
    facts: Mapping[str, Any]
    step: int
    ema: str
    digest: str
    network: Transformer
    loss: Loss

    @property
    def num_classes(self) -> int:
        """Classes the network knows: 0 where it was trained without labels."""
        return int(self.facts["num_classes"]) if self.config.data.conditional else 0


def find_weights(path: Path, ema: str | None) -> Path:
    """The weights file meant by a run, a checkpoint or a file.

    ema: None for the first EMA weights, a name such as "0.999", or "online". Raises MdtError.
    """
    if path.is_file():
        refuse_torch_file(path)
        if ema is not None and read_header(path).ema != ema:
            raise MdtError(
                f"{path} holds the weights {read_header(path).ema}, not {ema}",
                "give the run or checkpoint folder instead",
            )
        return path
    if not path.is_dir():
        raise MdtError(f"no such run or weights: {path}")
    if (path / IMPORTED).is_file() and (path / WEIGHTS).is_file():
        return find_weights(path / WEIGHTS, ema)
    if (path / STATE).is_file():
        read_state(path, unread=[OPTIMIZER])
        return _in_checkpoint(path, ema)
    found = checkpoints(path)
    if not found and (path / "model_index.json").is_file():
        raise MdtError(
            f"{path} is a model folder of diffusers, not weights of mdt",
            "give the run or the weights that it was exported from",
        )
    if not found:
        if (path / "config.toml").is_file():
            raise MdtError(
                f"the run {path} has no checkpoint yet",
                "wait for the first one, or lower checkpoint.every",
            )
        raise MdtError(
            f"{path} is neither a run nor a checkpoint folder",
            "expected a folder that mdt pretrain or mdt finetune made, or a .safetensors file",
        )
    for folder in found:
        try:
            read_state(folder, unread=[OPTIMIZER])
        except DamagedError:
            continue
        return _in_checkpoint(folder, ema)
    raise MdtError(f"no checkpoint of {path} is intact", "restore one of them from a copy")


def _in_checkpoint(folder: Path, ema: str | None) -> Path:
    if ema == ONLINE:
        return folder / WEIGHTS
    if ema is None:
        config = weights_config(folder / WEIGHTS, read_header(folder / WEIGHTS))
        return folder / ema_file(config.ema.names[0])
    have = sorted(file.stem.removeprefix("ema-") for file in folder.glob("ema-*.safetensors"))
    if ema not in have:
        near = nearest(ema, [*have, ONLINE])
        raise MdtError(
            f"{folder} has no EMA weights {ema}",
            f"there are {', '.join(have)} and online" + (f"; did you mean {near}?" if near else ""),
        )
    return folder / f"ema-{ema}.safetensors"


def weights_config(path: Path, header: Header) -> RunConfig:
    """The configuration in the header of weights; MdtError where this version cannot read it.

    Headers without `sampling.spacing` are older than the key: they were sampled with "ends".
    """
    sampling = {"spacing": "ends"} | header.config.get("sampling", {})
    try:
        return RunConfig.model_validate({**header.config, "sampling": sampling})
    except ValidationError as error:
        raise MdtError(
            f"{path} holds a configuration that this mdt does not know:\n" + fault_lines(error),
            "use the mdt version that wrote it",
        ) from error


def load_trained(
    path: Path, ema: str | None, device: torch.device, masked: bool = False
) -> LoadedModel:
    """Read, check and build. Without `masked`, parts that only masked passes use are left out."""
    file = find_weights(path, ema)
    header = read_header(file)
    config = weights_config(file, header)
    channels, height, width = header.data["latent_shape"]
    with torch.random.fork_rng(devices=[]):
        plain = config.model_copy(update={"masking": type(config.masking)()})
        network = build_network(
            config if masked else plain, (channels, height, width), header.data["num_classes"]
        )
    tensors = {
        name: tensor
        for name, tensor in read_tensors(file).items()
        if masked or not name.startswith(TRAINING_ONLY)
    }
    put_weights(network, tensors, file)
    return LoadedModel(
        path=file,
        config=config,
        facts=header.data,
        step=header.step,
        ema=header.ema,
        digest=sha256_of(file),
        network=network.eval().requires_grad_(False).to(device),
        loss=build_loss(config.objective),
    )


@torch.no_grad()
def put_weights(network: torch.nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy weights into parameters of the same names; MdtError with a diff if they do not fit."""
    ours = dict(network.named_parameters())
    problems = fit_report(ours, tensors)
    if problems:
        shown = problems[:8] + ([f"... and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise MdtError(f"{source} does not fit this network:\n  " + "\n  ".join(shown))
    for name, parameter in ours.items():
        parameter.copy_(tensors[name])


LARGEST = 1e-4


IMAGES = 4


# (x [B, C, H, W], time as the network reads it [B], y [B] or None) -> a raw output.
Exported = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Inputs:
    """What a network is asked: latents, the times its embedding reads, classes."""

    x: Tensor
    t: Tensor
    y: Tensor | None


def fixed_inputs(trained: LoadedModel) -> Inputs:
    """Noisy latents over the range of training times; the last image has the null class."""
    shape = tuple(trained.facts["latent_shape"])
    generator = stream("export parity")
    clean = 0.5 * torch.randn((IMAGES, *shape), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    t_B = trained.loss.quantile_time((torch.arange(IMAGES) + 0.5) / IMAGES)
    noisy = trained.loss.noisy(Batch(clean, t_B, noise))
    x, read_B = trained.loss.network_input(noisy, t_B)
    null = trained.num_classes
    if not null:
        return Inputs(x, read_B, None)
    y_B = torch.randint(null, (IMAGES,), generator=generator)
    y_B[-1] = null
    return Inputs(x, read_B, y_B)


@torch.no_grad()
def largest_difference(network: Transformer, theirs: Exported, inputs: Inputs) -> float:
    """Max |a - b| over all values; infinity where an output is not finite."""
    first = network(inputs.x, inputs.t, inputs.y).final
    second = theirs(inputs.x, inputs.t, inputs.y)
    if first.shape != second.shape:
        return float("inf")
    difference = (first - second).abs().max()
    return float(difference) if bool(difference.isfinite()) else float("inf")


def check_parity(difference: float, what: str) -> None:
    """MdtError where `difference` of the outputs is above what rounding explains."""
    if difference > LARGEST:
        raise MdtError(
            f"the outputs of {what} differ from those of the trained network: largest difference "
            f"{difference:.2g}, allowed {LARGEST:g}",
            "nothing was written; please report this with the output of mdt inspect",
        )
