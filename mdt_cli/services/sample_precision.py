"""The arithmetic of `mdt sample`: what the words of `sampling.precision` set."""

import torch
from torch import Tensor, nn

from mdt_cli.config.sampling import Precision
from mdt_cli.errors import MdtError
from mdt_cli.services.runtime import check_precision


def computed(precision: Precision, device: torch.device) -> Precision:
    """What the device computes when asked for `precision`: a CPU has no TF32.

    MdtError where bf16 would be slower than float32.
    """
    if precision == "bf16":
        try:
            check_precision(precision, device.type)
        except MdtError as error:
            raise MdtError(
                "sampling.precision bf16 on this CPU would be 8 to 100 times slower than float32: "
                "it has no instructions for it",
                "leave it at float32, or sample on a GPU",
            ) from error
    return "float32" if precision == "tf32" and device.type == "cpu" else precision


class Autocast(nn.Module):
    """A network under bf16 autocast that answers in float32, so that no solver meets bf16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def forward(self, x: Tensor, t_B: Tensor, y_B: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            output: Tensor = self._network(x, t_B, y_B)
        return output.float()
