"""What tests of all folders share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nomad_testkit.cli.bench.machine_state import MachineState
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

HERE = Path(__file__).parent


def pytest_configure() -> None:
    """Let SIGINT be heard by what tests start: a shell that runs pytest in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that count what is on the machine, and keep each file's tests, and so its hosts, together."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "nothing_left" in fixtures:
            item.add_marker("alone")
        if HERE in item.path.parents and "nomad_cluster" not in fixtures:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture
def nothing_left() -> Iterator[Callable[[], None]]:
    """Give a function that waits until the machine is as it was before the test, and run it at the end too."""
    before = MachineState.take()

    def probe() -> Ok[None] | Pending:
        left = MachineState.take().left_since(before)
        return Pending(repr(left)) if left else Ok(None)

    def prove() -> None:
        wait_until("nothing to be left behind", probe, deadline=Deadline.after(15))

    yield prove
    prove()
