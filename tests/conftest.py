"""What tests of all folders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from machine_state import MachineState

from nomad_testkit.wait import Deadline, Ok, Pending, wait_until


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
