"""Trained weights: found by reference, checked, transferred into networks, and locked."""
