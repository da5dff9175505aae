"""The network as a diffusers model; bundled into exported folders, never imported by `mdt`."""

import os
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from mdt_cli.core.model.transformer import Transformer


class MdtTransformer2DModel(ModelMixin, ConfigMixin):
    """Its configuration is the argument list of `Transformer`; its tensors are the network's."""

    # diffusers writes this into the index of a pipeline as the name of the file to load.
    __module__ = __name__.rpartition(".")[2]

    @register_to_config
    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        out_channels: int,
        num_classes: int,
        patch_size: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        condition: str,
        zero_null: bool,
        positions: str,
        relative_bias: bool,
        decoder_depth: int,
        long_skips: bool,
        input_skip: bool,
        narrow_depth: int,
        narrow_size: int,
        narrow_heads: int,
        narrow_subtract: bool,
        output_conv: bool,
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        self.network = Transformer(
            latent_shape=(channels, height, width),
            out_channels=out_channels,
            num_classes=num_classes,
            patch_size=patch_size,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            condition=condition,
            zero_null=zero_null,
            positions=positions,
            relative_bias=relative_bias,
            decoder_depth=decoder_depth,
            long_skips=long_skips,
            input_skip=input_skip,
            narrow_depth=narrow_depth,
            narrow_size=narrow_size,
            narrow_heads=narrow_heads,
            narrow_subtract=narrow_subtract,
            output_conv=output_conv,
        )

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The network's raw answer [B, out_channels, H, W].

        timestep: what the objective feeds the network (index, 1000 t or log(sigma) / 4).
        class_labels: int64, `num_classes` for "no class"; not needed without classes.
        """
        # Fixed tables are no weights: loading in half precision leaves them as they are.
        for table in self.network.buffers():
            if table.is_floating_point() and table.dtype != self.dtype:
                table.data = table.to(self.dtype)
        output = self.network(hidden_states.to(self.dtype), timestep, class_labels)
        if not return_dict:
            return (output,)
        return Transformer2DModelOutput(sample=output)

    def save_config(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the configuration, and this file beside it: without it nothing can be loaded."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        code = Path(__file__)
        (Path(save_directory) / code.name).write_bytes(code.read_bytes())
