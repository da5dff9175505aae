"""diffusers' DiT as the DiT paper's code has it; bundled into exported folders."""

import os
from pathlib import Path
from typing import Any

from diffusers import DiTTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor


class MdtDiTTransformer2DModel(DiTTransformer2DModel):
    """As its parent, but frequency k of the time embedding is 10000^(-k/128).

    The parent's is 10000^(-k/127), which no weights can undo.
    """

    # diffusers writes this into the index of a pipeline as the name of the file to load.
    __module__ = __name__.rpartition(".")[2]

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """As its parent, with the frequencies of the DiT paper's code."""
        for block in self.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        return super().forward(
            hidden_states, timestep, class_labels, cross_attention_kwargs, return_dict
        )

    def save_config(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the configuration, and this file beside it: without it nothing can be loaded."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        code = Path(__file__)
        (Path(save_directory) / code.name).write_bytes(code.read_bytes())
