"""`nomad-testkit up` that is interrupted leaves nothing on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_runs import Project, project_in

NothingLeft = Callable[[], None]
EXAMPLE = "nomad-consul-colocated-cluster"
SMALL = ("--servers", "1", "--clients", "1")


@pytest.fixture
def project(tmp_path: Path, nothing_left: NothingLeft) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting the embedded EC2", signal.SIGINT),
        ("hosts are booting", signal.SIGINT),
        ("hosts are booting", signal.SIGTERM),
    ],
)
def test_after_an_interrupt(moment: str, number: signal.Signals, project: Project, nothing_left: NothingLeft) -> None:
    run = project.start_module("nomad_testkit", "up", EXAMPLE, *SMALL, "--name", "dev")
    run.await_line(moment)
    if number == signal.SIGINT:
        run.interrupt()  # the whole group, as a terminal does
    else:
        os.kill(run.process.pid, number)
    status = run.await_end()
    nothing_left()
    assert status == 130, run.text
    assert "interrupted" in run.text
    assert "Traceback" not in run.text
    assert "is up" not in run.text
    for run_id in run.deployed:
        assert f"destroyed {run_id} in" in run.text
    assert project.remembered == []
