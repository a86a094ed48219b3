"""The data sets of the zoo: to import this package puts them into the registry."""

from . import images, singlecell, sprites, tabular  # noqa: F401

__all__: list[str] = []
