"""What scripts/scale measures, a file for each section of its tables."""
