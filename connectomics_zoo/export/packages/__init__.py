"""Packages of trained networks: the weights in formats that others run, and all that a stranger must know."""
