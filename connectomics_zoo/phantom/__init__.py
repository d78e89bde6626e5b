"""An electron-microscopy phantom: neurites with membranes, mitochondria with cristae, and truth for both.

Everything is built in physical units on a grid that is fine along z, and then cut into sections: a section
shows the mean through its thickness, its labels are those of its middle. Axes are (z, y, x), lengths nm.
"""

from connectomics_zoo.phantom.run import Phantom, make_phantom, write_phantom

__all__ = ["Phantom", "make_phantom", "write_phantom"]
