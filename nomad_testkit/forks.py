"""What a process holds and its forked children must not hold on, such as a lock: nobody would know that it is held.

The kernel gives a lock or a connection back when the last process that has it open ends. A child that is forked without
another program, as multiprocessing makes them, may outlive its parent, and would keep a cloud up that nobody uses.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Held(Protocol):
    """Something that is given back when the process ends."""

    def drop(self) -> None:
        """Close what a forked child has of it, without giving back what its parent holds."""


_held: weakref.WeakValueDictionary[int, Held] = weakref.WeakValueDictionary()
_registered: list[bool] = []


def keep_from_children(held: Held) -> None:
    """Have children that are forked from now on drop it as they begin."""
    if not _registered:
        os.register_at_fork(after_in_child=_drop_all)
        _registered.append(True)
    _held[id(held)] = held


def _drop_all() -> None:
    for held in list(_held.values()):
        held.drop()
    _held.clear()
