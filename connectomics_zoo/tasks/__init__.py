"""What a task's channels mean: targets, losses, activations, affinities, voxelwise decoding."""
