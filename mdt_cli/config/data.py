"""`[data]`: how rows of a latent cache become a batch."""

from typing import Annotated, Literal

from pydantic import Field

from mdt_cli.config.base import CountOrZero, Table


class DataConfig(Table):
    # False: labels are ignored and the network has no classes.
    conditional: bool = True
    # Share of labels replaced by the null class (= num_classes), per sample.
    class_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    # Use the flipped copies of the cache, chosen per row and step. Needs `encode-latents --flip`.
    flip: bool = True
    # sample: a draw from the autoencoder's posterior in every step. mode: its most likely latents.
    posterior: Literal["sample", "mode"] = "sample"
    # unscaled: as the autoencoder gives latents, before its shift and scale (LMD). For objectives
    # that generate nothing.
    latents: Literal["scaled", "unscaled"] = "scaled"
    # Rows kept out of training for the held-out loss; never more than a twentieth of the cache.
    held_out: CountOrZero = 256
    # stratified: a like share of each class and never its last image; random: of all images alike.
    # auto: stratified in a new run. A run records what it began with.
    split: Literal["auto", "stratified", "random"] = "auto"
