"""The types of model, task and experiment specs: the one place with defaults."""
