"""A terminal that is closed while a whole pytest has a cluster up: it is destroyed, and nothing of it is left."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from pytest_runs import SECONDS, await_end_of, project_in

from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

TESTS = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_it_waits(nomad_cluster, signs, number):
    signs.give("running")
    signs.wait("nobody gives this sign")
"""


def read_until(closing: threading.Event, terminal: int) -> None:
    """Read what is written to a terminal, so that nobody has to wait to write.

    It must not be in the middle of a read when the terminal is closed: until that read ends, the terminal is open.
    """
    with suppress(OSError):
        while not closing.is_set():
            if select.select([terminal], [], [], 0.05)[0]:
                os.read(terminal, 65536)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_destroys_its_cluster(tmp_path: Path, workers: str) -> None:
    with project_in(tmp_path) as project:
        project.write(TESTS)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers]
        environment = project.environment
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(project.folder)
            os.execve(command[0], command, environment)
        project.guard(pid)
        closing = threading.Event()
        reader = threading.Thread(target=read_until, args=(closing, terminal), daemon=True)
        reader.start()
        running = project.folder / "running"
        wait_until(
            "a test to have its cluster",
            lambda: Ok(None) if running.exists() else Pending("none has"),
            deadline=Deadline.after(SECONDS),
        )
        warden = project.warden()
        closing.set()
        reader.join()
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        await_end_of(warden)
        # The controller of workers has no cluster to destroy, and so ends as any program does.
        expected = pytest.ExitCode.INTERRUPTED if workers == "0" else -signal.SIGHUP
        assert os.waitstatus_to_exitcode(status) == expected
        assert project.remembered == [], project.journal()
