"""A cloud ends with whoever uses it, however that ends; each would be seen, for one that is kept is planted, too."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_runs import Project, PytestRun, alive, await_end_of, project_in

from nomad_testkit.errors import WaitTimeout

TESTS = """
import os
import time

import pytest


@pytest.mark.parametrize("number", [1, 2])
def test_uses_it(nomad_target, signs, number):
    {first}
    signs.give("running", str(nomad_target.ec2.warden_pid))
    signs.wait("nobody gives this sign")
"""
WAITS = 'signs.wait("nobody gives this sign")'
FORKS = "if os.fork() == 0: time.sleep(600)"
LEFT_UP = """
from nomad_testkit.runs.run import Run

def test_leaves_it_up(nomad_target, signs):
    nomad_target.keep()
    Run.new().note({"target": dict(nomad_target.describe()), "kept": True})
    signs.give("running", str(nomad_target.ec2.warden_pid))
    signs.wait("nobody gives this sign")
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


def start(project: Project, *arguments: str, first: str = "") -> PytestRun:
    project.write(TESTS.format(first=first or "pass"))
    return project.start("-p", "no:cacheprovider", *arguments)


def test_a_cloud_that_outlives_its_owner_is_seen(project: Project) -> None:
    run = start(project, first="nomad_target.keep()")
    warden = int(project.await_sign(run, "running"))
    run.kill()
    with pytest.raises(WaitTimeout, match=str(warden)):
        await_end_of(warden, 1)
    os.kill(warden, signal.SIGHUP)  # as SIGTERM and SIGINT do
    await_end_of(warden)


@pytest.mark.parametrize(
    ("workers", "number", "first"),
    [
        (0, signal.SIGHUP, ""),
        (0, signal.SIGKILL, FORKS),
        (2, signal.SIGTERM, ""),
        (2, signal.SIGKILL, ""),
    ],
)
def test_it_ends_with_a_pytest_that_gets_a_signal(
    project: Project, workers: int, number: signal.Signals, first: str
) -> None:
    run = start(project, f"-n{workers}", first=first)
    warden = int(project.await_sign(run, "running"))
    os.kill(run.process.pid, number)
    await_end_of(warden)
    run.await_end()


def test_what_a_killed_test_has_started_ends_with_it(project: Project) -> None:
    """`project_in` of these tests: its processes have sessions of their own, and what is left up has nobody."""
    project.write(f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from pytest_runs import project_in

def test_outer(tmp_path, signs):
    with project_in(tmp_path) as inner:
        inner.write({LEFT_UP!r})
        run = inner.start("-p", "no:cacheprovider")
        signs.give("running", f"{{inner.await_sign(run, 'running')}} {{run.process.pid}}")
        {WAITS}
""")
    run = project.start("-p", "no:cacheprovider")
    warden, inner = map(int, project.await_sign(run, "running").split())
    run.kill()
    await_end_of(warden)
    assert not alive(inner)
