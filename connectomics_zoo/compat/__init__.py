"""The way in from PyTorch Connectomics (PyTC): its configurations build here, with the same parameter counts."""

from connectomics_zoo.compat.run import build_model, list_architectures, print_available_architectures

__all__ = ["build_model", "list_architectures", "print_available_architectures"]
