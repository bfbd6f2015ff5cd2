"""Free degrees of freedom of a cell, with the same names for engines and predictions."""

from __future__ import annotations

from typing import Literal

# beside the sites: everything; the shape, at its volume; the volume, at its shape; nothing
Free = Literal["all", "shape", "volume", "sites"]
