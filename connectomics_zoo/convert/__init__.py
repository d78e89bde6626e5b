"""Checkpoints of other projects, read without running anything of theirs, as safetensors with a spec."""
