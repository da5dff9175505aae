"""Randomly initialised diffusers autoencoders, small enough for a test."""

from pathlib import Path

import torch


def save_autoencoder(
    folder: Path, kind: str = "AutoencoderKL", seed: int = 0, **extra: object
) -> str:
    """Save one that halves the image twice (AutoencoderKL, VQModel: once); its path."""
    import diffusers

    torch.manual_seed(seed)
    widths = (8, 8)
    blocks = {"block_out_channels": widths, "norm_num_groups": 4}
    blocks |= {"down_block_types": ("DownEncoderBlock2D",) * 2}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 2}
    match kind:
        case "AutoencoderKL":
            model = diffusers.AutoencoderKL(**blocks, latent_channels=4, **extra)
        case "VQModel":
            model = diffusers.VQModel(**blocks, latent_channels=3, num_vq_embeddings=8, **extra)
        case "AutoencoderTiny":
            model = diffusers.AutoencoderTiny(
                encoder_block_out_channels=(8, 8, 8),
                decoder_block_out_channels=(8, 8, 8),
                num_encoder_blocks=(1, 1, 1),
                num_decoder_blocks=(1, 1, 1),
                **extra,
            )
        case "AutoencoderDC":
            model = diffusers.AutoencoderDC(
                encoder_block_out_channels=(8, 8),
                decoder_block_out_channels=(8, 8),
                encoder_layers_per_block=(1, 1),
                decoder_layers_per_block=(1, 1),
                encoder_block_types="ResBlock",
                decoder_block_types="ResBlock",
                encoder_qkv_multiscales=((), ()),
                decoder_qkv_multiscales=((), ()),
                latent_channels=4,
                attention_head_dim=8,
                **extra,
            )
        case _:
            raise ValueError(kind)
    model.save_pretrained(folder)
    return str(folder)
