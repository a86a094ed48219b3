"""Reading ahead: the next batches are made while the last one is computed with."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")

DEPTH = 3  # items that are held ready
PATIENCE = 0.1  # seconds after which the reader looks whether it is still wanted


def read_ahead(make: Callable[[], Iterator[T]], depth: int = DEPTH) -> Iterator[T]:
    """Yield the items of an iterator, which runs in a thread of its own and is ahead by some.

    The items and their order are the same as without it. What the iterator raises is raised where
    its item would have come, and it is stopped when the items are no longer asked for.

    Parameters
    ----------
    make
        Makes the iterator; called in the thread, so that all its work is done there.
    depth
        Items that are held ready.

    Examples
    --------
    >>> list(read_ahead(lambda: iter("abc")))
    ['a', 'b', 'c']
    """
    ready: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def put(kind: str, what: T | BaseException | None) -> bool:
        while not unwanted.is_set():
            try:
                ready.put((kind, what), timeout=PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in make():
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    reader = threading.Thread(target=work, name="vaeppl reads ahead", daemon=True)
    reader.start()
    try:
        while True:
            kind, what = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(what, BaseException)
                raise what
            yield what  # type: ignore[misc]
    finally:
        unwanted.set()
        reader.join()
