"""A child that is forked without another program holds neither the locks nor the leases of its parent."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nomad_testkit.ec2.control import SOCKET, Connection
from nomad_testkit.runs.locks import FileLock


@contextmanager
def forked() -> Iterator[None]:
    """A child that lives as long as the block, and does nothing."""
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(begins, b"x")
        os.read(reading, 1)
        os._exit(0)
    try:
        os.read(begun, 1)
        yield
    finally:
        for descriptor in (writing, reading, begun, begins):
            os.close(descriptor)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_is_free_when_its_holder_has_released_it(tmp_path: Path, shared: bool) -> None:
    held, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert held.try_acquire(shared=shared)
    with forked():
        assert not other.try_acquire()  # the child's end of it takes nothing from its parent
        held.release()
        assert other.try_acquire()
    other.release()


def listening(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / SOCKET))
    listener.listen()
    return listener


def ended(connection: socket.socket, within: float) -> bool:
    return bool(select.select([connection], [], [], within)[0])


@pytest.mark.parametrize("close", [Connection.close, Connection.drop], ids=["closed", "its process ends"])
def test_a_lease_ends_with_its_holder(tmp_path: Path, close: Callable[[Connection], None]) -> None:
    with listening(tmp_path) as listener:
        lease = Connection(tmp_path, timeout=5)
        accepted, _ = listener.accept()
        with accepted, forked():
            assert not ended(accepted, 0)
            close(lease)
            assert ended(accepted, 60)
        lease.close()
