"""Close a process's locks and connections in its forked children.

The kernel releases a lock or connection when the last process that has it open ends. A child forked without exec, as by
multiprocessing, may outlive its parent and would keep an unused cloud up.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Held(Protocol):
    """A resource that the kernel releases when the process ends."""

    def drop(self) -> None:
        """Close the forked child's copy without releasing the parent's."""


_held: weakref.WeakValueDictionary[int, Held] = weakref.WeakValueDictionary()
_registered: list[bool] = []


def keep_from_children(held: Held) -> None:
    """Make children forked from now on drop it at their start."""
    if not _registered:
        os.register_at_fork(after_in_child=_drop_all)
        _registered.append(True)
    _held[id(held)] = held


def _drop_all() -> None:
    for held in list(_held.values()):
        held.drop()
    _held.clear()
