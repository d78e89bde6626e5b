"""Downloads trained weights, checked."""
