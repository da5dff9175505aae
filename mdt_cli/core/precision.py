"""Float32 on GPUs: all 23 bits of the mantissa, or the 10 of TF32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32(tf32: bool = False) -> Iterator[None]:
    """Within, products and convolutions of float32 are TF32 where `tf32` says so, and only there.

    Left to itself torch takes TF32 for convolutions and float32 for products.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
