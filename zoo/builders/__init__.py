"""The built-in catalogue's builders, one file for each kind of network; importing them imports no torch."""
