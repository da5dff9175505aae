"""diffusers' DiT as the DiT paper's code has it; bundled into exported folders."""

from typing import Any

from diffusers import DiTTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor


class MdtDiTTransformer2DModel(DiTTransformer2DModel):
    """As its parent, but frequency k of the time embedding is 10000^(-k/128).

    The parent's is 10000^(-k/127), which no weights can undo.
    """

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | None = None,
        class_labels: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        for block in self.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        return super().forward(
            hidden_states, timestep, class_labels, cross_attention_kwargs, return_dict
        )
