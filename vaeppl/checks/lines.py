"""Where a site stands: the line of a user's file that draws it, or that raised an error."""

from __future__ import annotations

import inspect
import re
import sys
import sysconfig
from pathlib import Path
from types import FrameType
from typing import Any

import pyro.poutine as poutine

from .findings import Line

__all__ = ["Located", "line_of_attribute", "line_of_error", "line_of_function"]

PACKAGE = str(Path(__file__).resolve().parents[1])
ZOO = str(Path(PACKAGE) / "models")
LIBRARIES = (sysconfig.get_paths()["stdlib"], "<frozen", "<eval")


class Located(poutine.messenger.Messenger):
    """Notes the line on which each site is drawn.

    Attributes
    ----------
    lines : dict of str to Line
        By the name of the site.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, Line] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if is_users(frame.f_code.co_filename):
                self.lines[msg["name"]] = Line(frame.f_code.co_filename, frame.f_lineno)
                return
            if frame.f_code.co_filename.startswith(PACKAGE):
                return  # beyond stands whoever asked for the check
            frame = frame.f_back


def is_users(file: str) -> bool:
    """Tell a file that tells a story from those of the libraries, and from vaeppl's own."""
    if file.startswith(ZOO):
        return True
    return not file.startswith((PACKAGE, *LIBRARIES)) and "site-packages" not in file


def line_of_error(error: BaseException) -> Line | None:
    """Return the innermost line of a user's file from which an error came."""
    found = None
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if is_users(file):
            found = Line(file, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def line_of_function(function: Any) -> Line | None:
    """Return the line on which a function or method is defined; ``None`` if it is not known."""
    try:
        function = inspect.unwrap(getattr(function, "__func__", function))
        file = inspect.getsourcefile(function)
        return None if file is None else Line(file, inspect.getsourcelines(function)[1])
    except (OSError, TypeError):
        return None


def line_of_attribute(owner: Any, name: str) -> Line | None:
    """Return the line of a class on which ``self.<name>`` is set; ``None`` if it is not known."""
    pattern = re.compile(rf"\bself\.{re.escape(name)}\b[^=(]*=(?!=)")
    for cls in type(owner).__mro__:
        if "__init__" in vars(cls):
            try:
                lines, start = inspect.getsourcelines(cls)
                file = inspect.getsourcefile(cls)
            except (OSError, TypeError):
                return None
            for number, line in enumerate(lines, start):
                if file is not None and pattern.search(line):
                    return Line(file, number)
    return None
