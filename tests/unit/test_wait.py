from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


def test_a_child_never_outlives_its_parent(time: FakeTime) -> None:
    parent = Deadline.after(10, clock=time.clock)
    assert parent.child(3).remaining() == 3
    assert parent.child(30).remaining() == 10
    time.now += 11
    assert parent.child(3).passed


def test_ok_at_once_needs_no_time(time: FakeTime) -> None:
    deadline = Deadline.after(0, clock=time.clock)
    assert wait_until("x", lambda: Ok("value"), deadline=deadline, sleep=time.sleep) == "value"


def test_it_ends_when_the_condition_holds(time: FakeTime) -> None:
    deadline = Deadline.after(60, clock=time.clock)
    answer = wait_until(
        "x",
        lambda: Ok(time.now) if time.now >= 105 else Pending("early"),
        deadline=deadline,
        interval=1,
        sleep=time.sleep,
    )
    assert answer == 105


def test_broken_ends_it_at_once(time: FakeTime) -> None:
    deadline = Deadline.after(60, clock=time.clock)
    with pytest.raises(BrokenError) as caught:
        wait_until("a leader", lambda: Broken("the unit failed"), deadline=deadline, where="i-1", sleep=time.sleep)
    assert str(caught.value) == ("waited for a leader on i-1; it can no longer come: the unit failed (after 0.0 s)")
    assert time.now == 100


def test_a_time_out_tells_everything(time: FakeTime) -> None:
    deadline = Deadline.after(3, clock=time.clock)
    with pytest.raises(WaitTimeout) as caught:
        wait_until("3 peers", lambda: Pending("1 peer"), deadline=deadline, where="i-1", interval=1, sleep=time.sleep)
    assert str(caught.value) == "waited for 3 peers on i-1; last seen: 1 peer (after 3.0 s and 4 tries)"


def test_a_slow_probe_gets_a_last_try_after_the_deadline(time: FakeTime) -> None:
    answers: Iterator[Ok[str] | Pending] = iter([Pending("no"), Ok("yes")])

    def probe() -> Ok[str] | Pending:
        time.now += 10
        return next(answers)

    assert wait_until("x", probe, deadline=Deadline.after(5, clock=time.clock), sleep=time.sleep) == "yes"


def test_progress_is_told_once_for_each_new_thing(time: FakeTime) -> None:
    seen: list[str] = []
    answers: Iterator[Ok[None] | Pending] = iter([Pending("a"), Pending("a"), Pending("b"), Ok(None)])
    wait_until(
        "x",
        lambda: next(answers),
        deadline=Deadline.after(60, clock=time.clock),
        sleep=time.sleep,
        on_pending=seen.append,
    )
    assert seen == ["a", "b"]


def test_looks_become_rarer_up_to_the_longest_pause() -> None:
    pauses: list[float] = []
    answers = iter([Pending("no")] * 6 + [Ok(1)])
    deadline = Deadline.after(60)
    wait_until("it", lambda: next(answers), deadline=deadline, interval=0.2, longest=0.6, sleep=pauses.append)
    assert pauses == pytest.approx([0.2, 0.3, 0.45, 0.6, 0.6, 0.6])
