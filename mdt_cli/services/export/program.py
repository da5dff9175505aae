"""The network as a program that needs no Python classes: torch.export or ONNX.

Both take any batch size. Inputs: `x` noisy latents as the objective scales them, `t` the number
that the time embedding reads, as float32, and, where there are classes, `y`.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdt_cli.artifacts.program import ABOUT, ONNX
from mdt_cli.errors import MdtError
from mdt_cli.services.build.objective import diffusion_of
from mdt_cli.services.export.model_card import codec_name
from mdt_cli.services.model import Inputs, LoadedModel, largest_difference

# One protobuf file holds 2 GiB at most; larger weights lie in a file beside it.
LARGEST_INLINE = 3 * 2**29


def require_onnx() -> None:
    """MdtError where the packages that write ONNX are not installed."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise MdtError(
            f"--format onnx needs {' and '.join(missing)}", "pip install 'mdt-cli[onnx]'"
        )


def about(trained: LoadedModel) -> str:
    """The `mdt.json` of a program: inputs, configuration, data and origin, as JSON."""
    facts = dict(trained.facts)
    facts["codec"] = {**facts["codec"], "id": codec_name(facts)}
    inputs = {
        "x": f"float32 [batch, {', '.join(map(str, facts['latent_shape']))}]",
        "t": f"float32 [batch]: {diffusion_of(trained.loss).time_input}",
        **_label_input(trained),
    }
    return json.dumps(
        {
            # torch.export takes by position what was given by position, and by name nothing.
            "call": f"program({', '.join(inputs)})",
            "inputs": inputs,
            "config": trained.config.model_dump(mode="json"),
            "data": facts,
            "step": trained.step,
            "ema": trained.ema,
            "weights_sha256": trained.digest,
        },
        indent=2,
        ensure_ascii=False,
    )


def _label_input(trained: LoadedModel) -> dict[str, str]:
    null = trained.num_classes
    return {"y": f"int64 [batch]: a class, or {null} for no class"} if null else {}


class _WithLabels(torch.nn.Module):
    """Exactly the inputs that the file lists, under its names."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Any:
        return self.network(x, t, y).final


class _WithoutLabels(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Any:
        return self.network(x, t, None).final


def _arguments(x: Tensor, t_B: Tensor, y_B: Tensor | None) -> tuple[Tensor, ...]:
    return (x, t_B.float()) if y_B is None else (x, t_B.float(), y_B)


def _program(trained: LoadedModel, inputs: Inputs) -> Any:
    arguments = _arguments(inputs.x, inputs.t, inputs.y)
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in arguments)
    wrap = _WithoutLabels if inputs.y is None else _WithLabels
    return torch.export.export(wrap(trained.network), arguments, dynamic_shapes=shapes)


def write_torch_export(path: Path, trained: LoadedModel, inputs: Inputs) -> float:
    """Write a `.pt2` file; the largest difference of its outputs after loading it again."""
    torch.export.save(_program(trained, inputs), path, extra_files={ABOUT: about(trained)})
    program = torch.export.load(path).module()

    def theirs(x: Tensor, t_B: Tensor, y_B: Tensor | None) -> Tensor:
        return torch.as_tensor(program(*_arguments(x, t_B, y_B)))

    return _over_batches(trained, theirs, inputs)


def write_onnx(folder: Path, trained: LoadedModel, inputs: Inputs) -> float:
    """Write `model.onnx` and `mdt.json`; the largest difference by ONNX's reference evaluator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    names = [name for name, value in vars(inputs).items() if value is not None]
    size = sum(p.numel() * p.element_size() for p in trained.network.parameters())
    torch.onnx.export(
        _program(trained, inputs),
        (),
        folder / ONNX,
        input_names=names,
        output_names=["output"],
        dynamo=True,
        external_data=size > LARGEST_INLINE,
        verbose=False,
    )
    (folder / ABOUT).write_text(about(trained) + "\n", "utf-8")
    evaluator = ReferenceEvaluator(onnx.load(folder / ONNX))

    def theirs(x: Tensor, t_B: Tensor, y_B: Tensor | None) -> Tensor:
        given = {"x": x, "t": t_B.float(), "y": y_B}
        feeds = {name: value.numpy() for name, value in given.items() if value is not None}
        answers: Any = evaluator.run(None, feeds)
        return torch.from_numpy(answers[0])

    return _over_batches(trained, theirs, inputs)


def _over_batches(trained: LoadedModel, theirs: Any, inputs: Inputs) -> float:
    """At the batch size that was traced, and at 1."""
    one = Inputs(inputs.x[-1:], inputs.t[-1:], None if inputs.y is None else inputs.y[-1:])
    return max(largest_difference(trained.network, theirs, given) for given in (inputs, one))
