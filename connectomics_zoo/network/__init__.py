"""Networks of specs: built, measured, seeded, and made fast on the machine at hand."""
