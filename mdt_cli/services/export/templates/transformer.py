"""The network as a diffusers model; bundled into exported folders, never imported by `mdt`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from mdt_cli.core.model.assemble import assemble
from mdt_cli.core.model.shape import TransformerShape


class MdtTransformer2DModel(ModelMixin, ConfigMixin):
    """Its configuration is a flat `TransformerShape`; its tensors are those of the network."""

    # diffusers writes this into the index of a pipeline as the name of the file to load.
    __module__ = __name__.rpartition(".")[2]

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.register_to_config(**shape.flat())
        self.network = assemble(shape)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """A new network from the content of `config.json`; `kwargs` replace keys of it.

        With `return_unused_kwargs` also the keywords that are no key of it.
        """
        shape = TransformerShape.from_flat({**config, **kwargs})
        model, known = cls(shape), shape.flat()
        named = {**config, "_class_name": cls.__name__}
        model.register_to_config(**{k: v for k, v in named.items() if k not in known})
        unused = {k: v for k, v in kwargs.items() if k not in known}
        return (model, unused) if return_unused_kwargs else model

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor, ...]:
        """The network's raw output [B, out_channels, H, W]; in a tuple, also the early head's.

        timestep: what the objective feeds the network (index, 1000 t or log(sigma) / 4).
        class_labels: int64, `num_classes` for "no class"; not needed without classes.
        """
        # Fixed tables are not weights: loading in half precision leaves them in float32.
        for table in self.network.buffers():
            if table.is_floating_point() and table.dtype != self.dtype:
                table.data = table.to(self.dtype)
        answer = self.network(hidden_states.to(self.dtype), timestep, class_labels)
        if return_dict:
            return Transformer2DModelOutput(sample=answer.final)
        return (answer.final,) if answer.early is None else (answer.final, answer.early)

    def save_config(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the configuration, and this file beside it: without it nothing can be loaded."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        code = Path(__file__)
        (Path(save_directory) / code.name).write_bytes(code.read_bytes())
