"""Specs by reference: lookup, listing, overrides, differences, and what was released."""
