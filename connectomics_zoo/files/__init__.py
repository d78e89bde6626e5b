"""What is on disk, whatever it means: YAML, safetensors headers, digests, files that appear whole."""
