"""Train, sample, evaluate and export masked diffusion transformers."""

__version__ = "0.1.0"
