"""Do imported tensors fit, are they finite, and do they survive the round trip?"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdt_cli.core.model.adapters.dit import official_layout, to_official
from mdt_cli.core.model.transformer import Transformer
from mdt_cli.errors import MdtError
from mdt_cli.services.importing.container import Contents
from mdt_cli.services.importing.families import Family
from mdt_cli.services.importing.shapes import is_table
from mdt_cli.services.model import LoadedModel, fixed_inputs

# A table of indices that MDT keeps in every block; it follows from the grid.
INDEX = "relative_position_index"
SHOWN = 6


def check_finite(tensors: Mapping[str, Tensor], source: Path) -> None:
    """MdtError for NaN, infinity, or a dtype that is not floating point; index tables aside."""
    for name, tensor in tensors.items():
        if name.endswith(INDEX):
            continue
        if not tensor.is_floating_point():
            raise MdtError(f"{source}: {name} has dtype {tensor.dtype}; expected floating point")
        if not bool(tensor.isfinite().all()):
            raise MdtError(
                f"{source}: {name} contains NaN or infinity", "use an earlier checkpoint"
            )


def under_layout_names(
    contents: Contents, network: Transformer, family: Family, source: Path
) -> dict[str, Tensor]:
    """The tensors under the names of the layout; index buffers are checked and left out.

    Matrices stored beside the network are returned too, so that `check_fits` reports them.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in contents.tensors.items():
        if not name.endswith(INDEX):
            found[family.prefix + name] = tensor
        elif not _same(tensor, network.positions.for_pass(None, 0)):
            raise MdtError(
                f"{source}: {name} numbers relative positions in another order than MDT, so its "
                "bias tables cannot be used"
            )
    matrices = {k: v for k, v in contents.beside.items() if isinstance(v, Tensor) and v.dim() > 1}
    return found | matrices


def _same(theirs: Tensor, ours: Tensor | None) -> bool:
    return ours is not None and theirs.shape == ours.shape and torch.equal(theirs.long(), ours)


def check_fits(
    tensors: Mapping[str, Tensor], network: Transformer, family: Family, source: Path
) -> None:
    """MdtError with a diff where names or shapes are not those of the family."""
    wanted = to_official(network, family.names)
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    misshapen = [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if not (missing or unexpected or misshapen):
        return
    lines = [
        *_listed("missing", [_near(name, unexpected) for name in missing]),
        *_listed("unexpected", unexpected),
        *_listed("wrong shape", misshapen),
    ]
    raise MdtError(
        f"{source} does not fit {family.title}: of {len(wanted)} tensors {len(missing)} missing, "
        f"{len(misshapen)} with a wrong shape; {len(unexpected)} unexpected\n  "
        + "\n  ".join(lines)
    )


def _near(name: str, others: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
    return f"{name} (found {near[0]})" if near else name


def _listed(what: str, names: Sequence[str]) -> list[str]:
    more = [f"{what}: ... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{what}: {name}" for name in names[:SHOWN]] + more


def computed_positions(
    network: Transformer, tensors: Mapping[str, Tensor], family: Family, source: Path
) -> dict[str, float]:
    """Maximum difference of each fixed position table in the file from the computed one.

    Call it before copying the file's tensors. MdtError where a table was trained.
    """
    trained, ours = dict(network.named_parameters()), to_official(network, family.names)
    found = {
        name: float((ours[name] - tensors[name].float()).abs().max())
        for name, place in official_layout(network, family.names).items()
        if place.slots[0].name not in trained
    }
    for name, difference in found.items():
        if not is_table(tensors[name], ours[name]):
            raise MdtError(
                f"{source}: {name} differs from the fixed table by up to {difference:.2g}",
                f"{family.title} has fixed positions; trained ones cannot be imported",
            )
    return found


def round_trip(
    network: Transformer,
    tensors: Mapping[str, Tensor],
    computed: Mapping[str, float],
    family: Family,
    source: Path,
) -> dict[str, Any]:
    """Map our tensors back to official names and compare values in the dtypes of the file.

    Tensors in `computed` are left out. Returns an entry of the report; MdtError where one differs.
    """
    again = {k: v for k, v in to_official(network, family.names).items() if k not in computed}
    for name, ours in again.items():
        if not torch.equal(ours.to(tensors[name].dtype), tensors[name]):
            raise MdtError(
                f"{source}: {name} changed in the round trip to mdt's layout and back",
                "nothing was written; please report this",
            )
    return {
        "tensors": len(again),
        "values": sum(tensor.numel() for tensor in again.values()),
        "bit_for_bit": True,
        "computed": dict(computed),
        "dtypes": sorted({str(tensors[name].dtype).removeprefix("torch.") for name in again}),
    }


@torch.no_grad()
def forward_summary(trained: LoadedModel, source: Path) -> dict[str, Any]:
    """Statistics of one forward pass on fixed inputs; MdtError where it is not finite."""
    inputs = fixed_inputs(trained)
    answer = trained.network(inputs.x, inputs.t, inputs.y).final.double()
    if not bool(answer.isfinite().all()):
        raise MdtError(f"{source}: a forward pass gives NaN or infinity", "nothing was written")
    flat = answer.flatten()
    return {
        "inputs": "noisy latents, times and classes from a fixed seed",
        "shape": list(answer.shape),
        "mean": flat.mean().item(),
        "std": flat.std(correction=0).item(),
        "first": flat[:3].tolist(),
        "last": flat[-1].item(),
    }
