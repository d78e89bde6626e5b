"""Everything that a catalogue promises, check by check: what `pytest --zoo NAME` runs."""
