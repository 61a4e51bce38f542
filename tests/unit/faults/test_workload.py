"""The workload: what is acknowledged, what that proves, and what a lost write looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from fault_lab import cluster_of

from nomad_testkit.errors import AgentApiError, BrokenError, CheckFailed, UsageError, WaitTimeout
from nomad_testkit.faults.leader_watch import Claim, LeaderWatch, rivals
from nomad_testkit.faults.workload import Register, Workload, writing
from nomad_testkit.wait import Deadline

SERVERS: list[Any] = ["a", "b", "c"]


class Memory:
    """A store that does what a test says: fails before or after a write is done."""

    name = "memory"

    def __init__(self) -> None:
        self.number = self.index = 0
        self.down: set[str] = set()
        self.silent = False
        self.asked: list[str] = []

    def read(self, server: Any) -> tuple[int, int]:
        self._ask(server)
        return self.number, self.index

    def write(self, server: Any, number: int, index: int) -> bool:
        self._ask(server)
        if index != self.index:
            return False
        self.number, self.index = number, self.index + 1
        if self.silent:
            raise AgentApiError("consul", server, None, "no answer in time")
        return True

    def _ask(self, server: str) -> None:
        self.asked.append(server)
        if server in self.down:
            raise AgentApiError("consul", server, 500, "No cluster leader")


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def register(memory: Memory) -> Register:
    return Register(memory, lambda: cast("Any", SERVERS))


def test_numbers_increase_and_are_acknowledged(register: Register, memory: Memory) -> None:
    for _ in range(3):
        register.step()
    assert (register.acknowledged, register.writes, memory.number) == (3, 3, 3)
    register.verify(Deadline.after(0))


def test_the_next_server_is_asked_where_one_does_not_answer(register: Register, memory: Memory) -> None:
    memory.down = {"a"}
    register.step()
    register.step()
    assert (register.refused, register.acknowledged, memory.asked[-1]) == (1, 1, "b")


def test_a_write_without_an_answer_is_not_counted_and_not_undone(register: Register, memory: Memory) -> None:
    register.step()
    memory.silent = True
    register.step()
    memory.silent = False
    assert (register.acknowledged, memory.number) == (1, 2)
    register.step()
    assert (register.acknowledged, memory.number) == (3, 3)
    register.verify(Deadline.after(0))


@pytest.mark.parametrize(("number", "index", "later"), [(4, 4, False), (2, 9, True)])
def test_a_lost_write_is_told_even_if_hidden(
    register: Register, memory: Memory, number: int, index: int, later: bool
) -> None:
    for _ in range(5):
        register.step()
    memory.number, memory.index = number, index
    if later:
        register.step()  # does not fit
        register.step()  # reads, and writes again
        assert memory.number > 5
    with pytest.raises(CheckFailed, match=f"memory: an acknowledged write was lost: {number} was read after 5"):
        register.verify(Deadline.after(0))


def test_no_write_at_all_proves_nothing(register: Register, memory: Memory) -> None:
    memory.down = {"a", "b", "c"}
    register.step()
    memory.down = set()
    with pytest.raises(CheckFailed, match="no write of 1 was acknowledged"):
        register.verify(Deadline.after(0))


def test_without_servers_nothing_is_proven(memory: Memory) -> None:
    servers = list(SERVERS)
    register = Register(memory, lambda: servers)
    register.step()
    servers.clear()
    register.step()
    assert (register.writes, register.refused) == (1, 1)
    with pytest.raises(WaitTimeout, match="last seen: the cluster has no server that runs"):
        register.verify(Deadline.after(0))
    assert not register.verified


def test_a_workload_on_no_server_is_refused_and_one_of_nothing_proves_nothing(tmp_path: Path) -> None:
    cluster = cluster_of([], tmp_path)
    with pytest.raises(UsageError, match="expected Consul servers to write to in nt-1, found none"), writing(cluster):
        pytest.fail("it must not come here")
    with pytest.raises(CheckFailed, match="no register, so nothing is proven"):
        Workload([]).verify(0)


def test_a_writer_that_ends_early_is_told(memory: Memory, register: Register) -> None:
    def fail(server: Any) -> tuple[int, int]:
        raise ZeroDivisionError("modulo by zero")

    workload = Workload([register])
    memory.read = fail  # type: ignore[method-assign]
    workload.start()
    with pytest.raises(BrokenError, match="ended early: ZeroDivisionError"):
        workload.await_writes(60)
    with pytest.raises(CheckFailed, match="ended early: ZeroDivisionError"):
        workload.verify(0)


class Acknowledging:
    """A register that acknowledges another write at each look, up to a number of them."""

    store = Memory()

    def __init__(self, most: int) -> None:
        self._looks, self._most = -1, most

    @property
    def writes(self) -> int:
        self._looks += 1
        return min(self._looks, self._most)


def test_one_write_may_be_from_before_and_two_are_not() -> None:
    registers: list[Any] = [Acknowledging(1)]
    with pytest.raises(WaitTimeout, match="none by memory"):
        Workload(registers).await_writes(0)
    registers = [Acknowledging(2)]
    Workload(registers).await_writes(60)


def test_the_pause_since_the_last_write_counts(memory: Memory, register: Register) -> None:
    register.step()
    register._last -= 100
    workload = Workload([register])
    workload.start()
    memory.down = {"a", "b", "c"}
    workload.stop()
    # At most one more write was under way when the servers went down.
    assert register.longest_pause >= 100
    pause = register.longest_pause
    register.close()
    assert register.longest_pause == pause


def test_two_leaders_of_one_term_are_rivals_and_those_of_two_terms_are_not() -> None:
    claims = [Claim("nomad", 2, "i-1"), Claim("nomad", 3, "i-2"), Claim("consul", 3, "i-1")]
    assert rivals(claims) == []
    assert rivals([*claims, Claim("nomad", 3, "i-3")]) == ["nomad, term 3: i-2 and i-3"]
    watch = LeaderWatch()
    with pytest.raises(CheckFailed, match="no leader of consul and nomad was seen in 0 answers, so nothing is proven"):
        watch.verify()
    watch.claims = {Claim("nomad", 2, "i-1")}
    with pytest.raises(CheckFailed, match="no leader of consul was seen"):
        watch.verify()
    watch.claims = {*claims, Claim("nomad", 3, "i-3")}
    with pytest.raises(CheckFailed, match="two leaders at once: nomad, term 3"):
        watch.verify()


def test_a_leader_throughout_may_be_elected_again_but_not_replaced() -> None:
    watch = LeaderWatch()
    with pytest.raises(CheckFailed, match="consul had not one leader throughout: nobody led"):
        watch.verify_throughout()
    watch.claims = {Claim("consul", 2, "i-1"), Claim("nomad", 5, "i-2"), Claim("nomad", 3, "i-2")}
    watch.verify_throughout()
    watch.claims |= {Claim("nomad", 4, "i-3")}
    watch.verify_throughout("consul")
    with pytest.raises(CheckFailed, match="nomad had not one leader throughout: i-2, then i-3, then i-2 led"):
        watch.verify_throughout()
