"""Images to tokens and back.

Axes: B batch, C channels, H W latent size, N tokens, D hidden size, V output values of a token.
"""

from torch import Tensor, nn

from mdt_cli.core.model.blocks import Modulation, affine_norm, modulate, unmodulated_norm
from mdt_cli.core.model.shape import BlockStyle


class PatchEmbedding(nn.Module):
    """Linear map of each p x p patch; tokens in row-major order.

    `bottleneck`: patches pass through so many channels, without a bias, and a second linear map
    widens them (Li & He 2025, 2511.13720); 0: one map.
    """

    def __init__(
        self, channels: int, patch_size: int, hidden_size: int, bottleneck: int = 0
    ) -> None:
        super().__init__()
        self.width, first = hidden_size, bottleneck or hidden_size
        self.conv = nn.Conv2d(channels, first, patch_size, stride=patch_size, bias=not bottleneck)
        self.widen = nn.Linear(bottleneck, hidden_size) if bottleneck else None
        nn.init.xavier_uniform_(self.conv.weight.view(first, -1))
        if self.widen is not None:
            nn.init.xavier_uniform_(self.widen.weight)
        bias = self.conv.bias if self.widen is None else self.widen.bias
        assert bias is not None
        nn.init.zeros_(bias)

    def start_as_conv(self, weight: bool) -> None:
        """Initial values of torch's own convolution: of the bias and, with `weight`, of the weight.

        Uniform within 1 / sqrt(values of a patch). With a bottleneck nothing changes.
        """
        if self.conv.bias is None:
            return
        bound = self.conv.weight[0].numel() ** -0.5
        if weight:
            nn.init.uniform_(self.conv.weight, -bound, bound)
        nn.init.uniform_(self.conv.bias, -bound, bound)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, N, D]; the patch size divides H and W."""
        x_BND = self.conv(x_BCHW).flatten(2).transpose(1, 2)
        return x_BND if self.widen is None else self.widen(x_BND)


class Head(nn.Module):
    """Modulated norm and a zero-initialised Linear: to patches, or to the width of a decoder."""

    def __init__(
        self, hidden_size: int, out_size: int, condition_size: int, style: BlockStyle
    ) -> None:
        super().__init__()
        self.norm = unmodulated_norm(hidden_size, style)
        self.modulation = Modulation(condition_size, hidden_size, depth=1, num_chunks=2)
        self.linear = nn.Linear(hidden_size, out_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        """[B, N, V]"""
        shift, scale = self.modulation(c_BD)[0]
        return self.linear(modulate(self.norm(x_BND), shift, scale))


class PlainHead(nn.Module):
    """Affine norm and a Linear, for networks whose condition is among the tokens."""

    def __init__(self, hidden_size: int, out_size: int, norm_eps: float, style: BlockStyle) -> None:
        super().__init__()
        self.norm = affine_norm(hidden_size, style, norm_eps)
        self.linear = nn.Linear(hidden_size, out_size)

    def forward(self, x_BND: Tensor, c_BD: None = None) -> Tensor:
        """[B, N, V]; there is no condition vector."""
        return self.linear(self.norm(x_BND))


class PoolHead(nn.Module):
    """Mean over the patch tokens, affine norm and a Linear to one number per class.

    He et al. 2022, "global pool": the norm comes after the mean, and the Linear starts near 0.
    """

    def __init__(self, hidden_size: int, num_classes: int, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=norm_eps)
        self.linear = nn.Linear(hidden_size, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=2e-5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BND: Tensor) -> Tensor:
        """[B, num_classes]"""
        return self.linear(self.norm(x_BND.mean(1)))


def unpatchify(x_BNV: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """[B, N, p*p*C] with C fastest to [B, C, H, W]."""
    height, width = grid
    x = x_BNV.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, (height, width))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
