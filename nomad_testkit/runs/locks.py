"""Locks of files that the kernel gives back when a process ends, however that comes."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.forks import keep_from_children
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

PATIENCE = 24 * 3600.0
"""Seconds; in truth a wait for another process lasts as long as that one lives, which its locks tell."""


@dataclass
class FileLock:
    """A lock of a file, shared or exclusive, that the kernel gives back when the process ends."""

    path: Path
    create: bool = True
    """Whether to create the file; if not, a missing file raises FileNotFoundError and nothing is created."""
    _descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if nobody else's is in the way. Raises FileNotFoundError where it is not to make its file."""
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
        """Tell whether the path still names the open file: the lock of one that was removed keeps nobody out."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def acquire(self, what: str, *, shared: bool = False) -> None:
        """Take the lock, waiting for as long as others live that are in the way."""

        def probe() -> Ok[None] | Pending:
            return Ok(None) if self.try_acquire(shared=shared) else Pending("others hold it")

        wait_until(what, probe, deadline=Deadline.after(PATIENCE), interval=0.05)

    def drop(self) -> None:
        """Leave the lock to the process that this one was forked from: one that closes it does not give it back."""
        self.release()

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
