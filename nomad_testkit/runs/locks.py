"""File locks, which the kernel releases however a process ends."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.forks import keep_from_children
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

PATIENCE = 24 * 3600.0
"""Seconds; in effect a wait lasts while the process that holds the lock lives."""


@dataclass
class FileLock:
    """A shared or exclusive file lock, which the kernel releases when the process ends."""

    path: Path
    create: bool = True
    """Whether to create the file; if not, a missing file raises FileNotFoundError and nothing is created."""
    _descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free. Raises FileNotFoundError if `create` is off and the file is missing."""
        if self.held:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT * self.create | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if not self.create and not self._names(descriptor):
            os.close(descriptor)
            raise FileNotFoundError(f"{self.path} was removed while its lock was taken")
        self._descriptor = descriptor
        keep_from_children(self)
        return True

    def _names(self, descriptor: int) -> bool:
        """Return whether the path still names the open file: the lock of a removed file protects nothing."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def acquire(self, what: str, *, shared: bool = False) -> None:
        """Take the lock, waiting while other live processes hold it."""

        def probe() -> Ok[None] | Pending:
            return Ok(None) if self.try_acquire(shared=shared) else Pending("others hold it")

        wait_until(what, probe, deadline=Deadline.after(PATIENCE), interval=0.05)

    def drop(self) -> None:
        """Leave the lock to the parent process: closing it in a forked child does not release it."""
        self.release()

    def release(self) -> None:
        """Release the lock if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
