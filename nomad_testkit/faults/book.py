"""The book of a process's faults: in the run's folder before they are made, and gone when they are undone."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.errors import FaultError
from nomad_testkit.runs.journal import Journal
from nomad_testkit.runs.locks import FileLock

FOLDER = "faults"
"""In a run's folder: one journal for each process that has made faults, and a lock that it holds while it lives."""
TURN = "faults.lock"
"""In a run's folder: the lock of whoever undoes what killed processes left. It is made with the first fault."""


class Book:
    """What one process has to undo in one cluster, where another one finds it."""

    _of: ClassVar[dict[tuple[int, Path], Book]] = {}
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._journal: Journal | None = None
        self._lock: FileLock | None = None
        self._keys: set[str] = set()
        self._kinds: dict[str, str] = {}
        self._guard = threading.Lock()

    @classmethod
    def of(cls, cluster: Cluster) -> Book:
        """Give this process's book of a cluster's faults."""
        with cls._opening:
            # By the process, too: a child that was forked has no hold on what its parent wrote.
            return cls._of.setdefault((os.getpid(), run_folder(cluster)), cls(run_folder(cluster)))

    def note(self, kind: str, what: str, hosts: Sequence[str], facts: Mapping[str, Any]) -> str:
        """Write down what will have to be undone, on the disk before this returns; gives its key.

        Raises FaultError where the run has no folder any more, TestkitError where it cannot be written.
        """
        with self._guard:
            if self._journal is None:
                self._open()
            assert self._journal is not None
            key = secrets.token_hex(6)
            self._journal.record(kind, key, what=what, hosts=list(hosts), undo=dict(facts))
            self._keys.add(key)
            self._kinds[key] = kind
            return key

    def undone(self, key: str) -> None:
        """Write down that something is undone; with the last thing the book goes."""
        with self._guard:
            if key not in self._keys or self._journal is None:
                return
            self._journal.destroyed(self._kinds.pop(key), key)
            self._keys.discard(key)
            if not self._keys:
                self._journal.path.unlink(missing_ok=True)
                if self._lock is not None:
                    self._lock.path.unlink(missing_ok=True)
                    self._lock.release()
                self._journal = self._lock = None

    def _open(self) -> None:
        if not self._run_folder.is_dir():
            raise FaultError(
                f"{self._run_folder}, the folder of the run, is not there, so nobody could undo a fault if this "
                "process were killed; deploy the cluster, or attach to it, by nomad_testkit"
            )
        folder = self._run_folder / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        (self._run_folder / TURN).touch(mode=0o600)
        _sync(self._run_folder)
        name = f"{os.getpid()}-{secrets.token_hex(3)}"
        # Held before there is anything to be found, so that nobody takes a fault for a dead process's.
        self._lock = FileLock(folder / f"{name}.lock")
        self._lock.try_acquire()
        self._journal = Journal(folder / f"{name}.jsonl")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def run_folder(cluster: Cluster) -> Path:
    """Give the folder of a cluster's run, where its SSH key is, too."""
    return cluster.key_path.absolute().parent
