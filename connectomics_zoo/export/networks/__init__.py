"""A file for each format of networks, with `write` and `reader` (`export.formats.NetworkWriter`)."""
