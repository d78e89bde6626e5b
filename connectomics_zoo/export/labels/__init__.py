"""Exports labels of objects for viewers: voxels at several scales, surfaces, skeletons, and what is known of each."""
