"""The networks that are written here, in plain PyTorch."""
