"""The data sets of the zoo: to import this package puts them into the registry."""

from . import images, processes, simulated_cells, singlecell, sprites, tabular  # noqa: F401

__all__: list[str] = []
