from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from nomad_testkit.errors import BrokenError, WaitTimeout
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until


@dataclass
class FakeTime:
    now: float = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def wait(time: FakeTime) -> Callable[..., Any]:
    """Wait in a time that passes at once."""

    def wait(what: str, probe: Callable[[], Any], seconds: float = 60, **how: Any) -> Any:
        return wait_until(what, probe, deadline=Deadline.after(seconds, clock=time.clock), sleep=time.sleep, **how)

    return wait


def test_a_child_never_outlives_its_parent(time: FakeTime) -> None:
    parent = Deadline.after(10, clock=time.clock)
    assert parent.child(3).remaining() == 3
    assert parent.child(30).remaining() == 10
    time.now += 11
    assert parent.child(3).passed


def test_ok_at_once_needs_no_time(wait: Callable[..., Any]) -> None:
    assert wait("x", lambda: Ok("value"), 0) == "value"


def test_it_ends_when_the_condition_holds(time: FakeTime, wait: Callable[..., Any]) -> None:
    assert wait("x", lambda: Ok(time.now) if time.now >= 105 else Pending("early"), interval=1) == 105


def test_broken_ends_it_at_once(time: FakeTime, wait: Callable[..., Any]) -> None:
    with pytest.raises(BrokenError) as caught:
        wait("a leader", lambda: Broken("the unit failed"), where="i-1")
    assert str(caught.value) == "waited for a leader on i-1; it can no longer come: the unit failed (after 0.0 s)"
    assert time.now == 100


def test_a_time_out_tells_everything(wait: Callable[..., Any]) -> None:
    with pytest.raises(WaitTimeout) as caught:
        wait("3 peers", lambda: Pending("1 peer"), 3, where="i-1", interval=1)
    assert str(caught.value) == "waited for 3 peers on i-1; last seen: 1 peer (after 3.0 s and 4 tries)"


def test_a_slow_probe_gets_a_last_try_after_the_deadline(time: FakeTime, wait: Callable[..., Any]) -> None:
    answers: Iterator[Ok[str] | Pending] = iter([Pending("no"), Ok("yes")])

    def probe() -> Ok[str] | Pending:
        time.now += 10
        return next(answers)

    assert wait("x", probe, 5) == "yes"


def test_progress_is_told_once_for_each_new_thing(wait: Callable[..., Any]) -> None:
    seen: list[str] = []
    answers = iter([Pending("a"), Pending("a"), Pending("b"), Ok(None)])
    wait("x", lambda: next(answers), on_pending=seen.append)
    assert seen == ["a", "b"]


def test_looks_become_rarer_up_to_the_longest_pause() -> None:
    pauses: list[float] = []
    answers = iter([Pending("no")] * 6 + [Ok(1)])
    deadline = Deadline.after(60)
    wait_until("it", lambda: next(answers), deadline=deadline, interval=0.2, longest=0.6, sleep=pauses.append)
    assert pauses == pytest.approx([0.2, 0.3, 0.45, 0.6, 0.6, 0.6])
