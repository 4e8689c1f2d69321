"""MIMO-UNet for MindSpore. This file imports nothing, so that `--version` and `--help` answer at once."""

__version__ = "1.0.0"
