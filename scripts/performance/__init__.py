"""The sections of docs/performance.md: what each measures and how it is written."""
