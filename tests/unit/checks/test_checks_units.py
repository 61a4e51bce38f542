"""The check of systemd units: what it makes of `systemctl show`, and the last words of a unit that failed."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from recording_host import RecordingHost
from verdicts import pending

from nomad_testkit.checks import UnitsActive
from nomad_testkit.checks.units import UnitsView
from nomad_testkit.cluster.check import Answer, HostRef
from nomad_testkit.cluster.host import UnitState
from nomad_testkit.wait import Broken, Ok, Pending

HERE = HostRef("i-1", "172.31.16.5", "127.31.16.5")
THERE = HostRef("i-2", "172.31.16.6", "127.31.16.6")
CONSUL = UnitState("consul", "active", "running", "success", 0, 0)
NOMAD = UnitState("nomad", "active", "running", "success", 0, 0)
STARTING = UnitState("nomad", "activating", "auto-restart", "exit-code", 1, 2)
FAILED = UnitState("consul", "failed", "failed", "exit-code", 1, 5)


def test_units_that_run_everywhere_and_one_that_starts_again() -> None:
    observed = tuple(Answer(place, UnitsView((CONSUL, NOMAD), ())) for place in (HERE, THERE))
    assert UnitsActive().judge(observed) == Ok("units consul, nomad are active on 2 hosts")
    assert UnitsActive().judge((Answer(HERE, UnitsView((CONSUL, STARTING), ())),)) == Pending(
        f"{HERE}: nomad is activating (auto-restart), result exit-code, exit status 1, restarted 2 times"
    )


@pytest.mark.parametrize(
    ("age", "restarts", "before", "seen"),
    [
        (None, 0, None, None),
        (8.0, 13, 13, None),
        (8.0, 13, None, None),
        (4.25, 0, 0, "nomad is active (running), and only for 4.2 s"),
        (0.5, 13, None, "nomad is active (running), restarted 13 times, and only for 0.5 s"),
        (90.0, 13, 11, "nomad is active (running), restarted 13 times, 2 of them since the last look"),
        (90.0, 0, 3, None),
    ],
)
def test_a_unit_that_keeps_restarting(age: float | None, restarts: int, before: int | None, seen: str | None) -> None:
    state = UnitState("nomad", "active", "running", "success", 0, restarts, age)
    view = UnitsView((CONSUL, state), (), {} if before is None else {"nomad": before})
    verdict = UnitsActive().judge((Answer(HERE, view),))
    assert verdict == (Pending(f"{HERE}: {seen}") if seen else Ok("units consul, nomad are active on 1 hosts"))


def test_each_look_knows_the_restarts_of_the_one_before() -> None:
    """A real unit is asked for by `systemctl show`; how its answer is read is a test of its own."""
    host = RecordingHost(1, "servers")
    states = [UnitState("nomad", "active", "running", "success", 0, restarts, 90.0) for restarts in (3, 3, 5)]
    looks: Iterator[UnitState] = iter(states)
    host.unit_states = lambda *units: (next(looks),)  # type: ignore[method-assign]
    cluster: Any = SimpleNamespace(hosts=[host], nomad_servers=[host], nomad_clients=[])
    check = UnitsActive(("nomad",))
    seen = [check.judge(check.observe(cluster)) for _ in states]
    assert seen[:2] == [Ok("units nomad are active on 1 hosts")] * 2
    assert seen[2] == pending("2 of them since the last look")


def test_a_unit_that_systemd_gave_up_on_is_broken_with_the_end_of_its_journal() -> None:
    refused = "==> Config validation failed: invalid config key telemetry.disable_compat_1.9"
    observed = (
        Answer(HERE, UnitsView((FAILED, NOMAD), (("consul", refused),))),
        Answer(THERE, UnitsView((CONSUL, STARTING), ())),
    )
    assert UnitsActive().judge(observed) == Broken(
        f"{HERE}: consul is failed (failed), result exit-code, exit status 1, restarted 5 times; "
        f"its journal ends:\n{refused}"
    )
