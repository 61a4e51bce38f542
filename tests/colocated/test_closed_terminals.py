"""A terminal that is closed while a whole pytest has a cluster up: it is destroyed, and nothing of it is left."""

from __future__ import annotations

import os
import pty
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


def read_all(terminal: int) -> None:
    """Read what is written to a terminal until it is closed, so that nobody has to wait to write."""
    with suppress(OSError):
        while os.read(terminal, 65536):
            pass


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
        shown = os.dup(terminal)
        reader = threading.Thread(target=read_all, args=(shown,), daemon=True)
        reader.start()
        running = project.folder / "running"
        wait_until(
            "a test to have its cluster",
            lambda: Ok(None) if running.exists() else Pending("none has"),
            deadline=Deadline.after(SECONDS),
        )
        warden = project.warden()
        os.close(shown)
        os.close(terminal)
        os.waitpid(pid, 0)
        await_end_of(warden)
        assert project.remembered == [], project.journal()
