"""Writes that go on while something fails: whether any that was acknowledged is lost, and for how long none was.

Each store has one register, which one thread writes with increasing numbers, each time only if nothing has changed
since it last knew the value (check-and-set). So a write that timed out, and may be done late, cannot undo a later one:
a value below the last number that was acknowledged means that it was lost.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError, CheckFailed, UsageError
from nomad_testkit.events import CheckEvent, emit
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

INTERVAL = 0.05
"""Seconds between two writes to a register."""
VERIFY_WITHIN = 60.0


class Store(Protocol):
    """A register by its two operations, on one server; both raise AgentApiError."""

    @property
    def name(self) -> str:
        """What it is, for a person to read."""
        ...

    def read(self, server: Host) -> tuple[int, int]:
        """Give the number, and the index of its last change; both 0 where nothing was ever written."""
        ...

    def write(self, server: Host, number: int, index: int) -> bool:
        """Write a number if the last change still has this index; tell whether it was written."""
        ...


@dataclass(frozen=True)
class ConsulKey:
    """A key of Consul's store, read with ?consistent."""

    key: str
    name: str = "Consul KV"

    def read(self, server: Host) -> tuple[int, int]:
        """Read it (GET /v1/kv/:key?consistent)."""
        found = server.consul.consistent_key(self.key)
        return (int(found[0]), found[1]) if found else (0, 0)

    def write(self, server: Host, number: int, index: int) -> bool:
        """Write it (PUT /v1/kv/:key?cas)."""
        return server.consul.put_key(self.key, str(number), cas=index)


@dataclass(frozen=True)
class NomadVariable:
    """A variable of Nomad, read from its leader."""

    path: str
    name: str = "Nomad variables"

    def read(self, server: Host) -> tuple[int, int]:
        """Read it (GET /v1/var/:path)."""
        found = server.nomad.variable(self.path)
        return (int(found["Items"]["number"]), int(found["ModifyIndex"])) if found else (0, 0)

    def write(self, server: Host, number: int, index: int) -> bool:
        """Write it (PUT /v1/var/:path?cas)."""
        return server.nomad.put_variable(self.path, {"number": str(number)}, cas=index)


@dataclass
class Register:
    """One register, who writes it, and what came of that."""

    store: Store
    servers: Callable[[], Sequence[Host]]
    acknowledged: int = 0
    """The last number that a server said it had written."""
    writes: int = 0
    """How many were acknowledged."""
    refused: int = 0
    """How many got an error, or no answer."""
    longest_pause: float = 0.0
    """Seconds between two acknowledged writes, at most."""
    lost: str = ""
    """What was read back that is older than what was acknowledged."""
    verified: bool = False
    """Whether every server was asked in the end."""
    _number: int = 0
    _index: int | None = None
    _turn: int = 0
    _last: float = field(default_factory=time.monotonic)
    _closed: bool = False

    def step(self) -> None:
        """Write the next number, by the server that answered last, or by the next one where that does not."""
        servers = self.servers()
        if not servers:  # as when all of them are stopped: nobody answers
            self.refused += 1
            return
        server = servers[self._turn % len(servers)]
        try:
            if self._index is None:
                self._look(*self.store.read(server))
            self._number += 1
            assert self._index is not None
            if not self.store.write(server, self._number, self._index):
                self._index = None  # an earlier write, without an answer, was done after all
                return
            self._acknowledge()
            self._look(*self.store.read(server))
        except AgentApiError:
            self.refused += 1
            self._turn += 1
            self._index = None  # it may or may not have been written

    def _look(self, number: int, index: int) -> None:
        if number < self.acknowledged:
            self.lost = f"{number} was read after {self.acknowledged} had been acknowledged"
        self._number, self._index = max(self._number, number), index

    def _acknowledge(self) -> None:
        now = time.monotonic()
        self.longest_pause, self._last = max(self.longest_pause, now - self._last), now
        self.acknowledged, self.writes = self._number, self.writes + 1

    def close(self) -> None:
        """End it: since the last acknowledged write there was a pause, too."""
        if not self._closed:
            self._closed = True
            self.longest_pause = max(self.longest_pause, time.monotonic() - self._last)

    def verify(self, deadline: Deadline) -> None:
        """Read the register back through every server. Raises CheckFailed for a lost write, WaitTimeout for silence."""

        def probe() -> Ok[None] | Pending:
            if not (servers := self.servers()):
                return Pending("the cluster has no server that runs")
            try:
                for server in servers:
                    self._look(*self.store.read(server))
            except AgentApiError as error:
                return Pending(str(error))
            return Ok(None)

        wait_until(f"every server to answer for {self.store.name}", probe, deadline=deadline)
        self.verified = True
        if self.lost:
            raise CheckFailed(f"{self.store.name}: an acknowledged write was lost: {self.lost}")
        if not self.writes:
            raise CheckFailed(f"{self.store.name}: no write of {self.refused} was acknowledged, so nothing is proven")

    def __str__(self) -> str:
        return (
            f"{self.store.name}: {self.writes} writes acknowledged, {self.refused} refused, "
            f"at most {self.longest_pause:.1f} s without one"
        )


class Workload:
    """Registers that are written all the time, each by its own thread; see `writing`."""

    def __init__(self, registers: Sequence[Register], run_id: str = "") -> None:
        self.registers, self._run_id = tuple(registers), run_id
        self._began = time.time()
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._write, args=(one,), daemon=True) for one in registers]

    @property
    def consul(self) -> Register:
        """The register in Consul's key/value store."""
        return self.registers[0]

    @property
    def nomad(self) -> Register:
        """The register in Nomad's variables."""
        return self.registers[1]

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it; waits for the answers that are still due."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for register in self.registers:
            register.close()

    def verify(self, within: float | Deadline = VERIFY_WITHIN) -> None:
        """Stop writing, and prove that no acknowledged write is lost. Raises CheckFailed and WaitTimeout."""
        self.stop()
        if self._failed:
            raise CheckFailed(f"the workload ended early: {self._failed[0]!r}") from self._failed[0]
        if not self.registers:
            raise CheckFailed("the workload has no register, so nothing is proven")
        deadline = within if isinstance(within, Deadline) else Deadline.after(within)
        for register in self.registers:
            try:
                register.verify(deadline)
            finally:
                self._tell(register)

    def _tell(self, register: Register) -> None:
        held = bool(register.writes) and not register.lost and register.verified
        seen = f"{register}; {register.lost}" if register.lost else str(register)
        lasted = time.time() - self._began
        emit(CheckEvent(self._run_id, "Workload", "no acknowledged write lost", seen, held, self._began, lasted))

    def await_writes(self, within: float | Deadline = VERIFY_WITHIN) -> None:
        """Wait until each store acknowledges writes that begin from now on. Raises WaitTimeout."""
        deadline = within if isinstance(within, Deadline) else Deadline.after(within)
        before = [register.writes for register in self.registers]

        def probe() -> Ok[None] | Pending | Broken:
            if self._failed:
                return Broken(f"the workload ended early: {self._failed[0]!r}")
            # Two, since the answer to one may be due from before.
            still = [
                one.store.name for one, writes in zip(self.registers, before, strict=True) if one.writes < writes + 2
            ]
            return Pending(f"none by {', '.join(still)}") if still else Ok(None)

        wait_until("an acknowledged write", probe, deadline=deadline)

    def __str__(self) -> str:
        return "; ".join(map(str, self.registers))

    def _write(self, register: Register) -> None:
        try:
            while not self._stop.is_set():
                register.step()
                self._stop.wait(INTERVAL)
        except Exception as error:  # nobody would see it in this thread
            self._failed.append(error)


@contextmanager
def writing(cluster: Cluster) -> Iterator[Workload]:
    """Write to a register in Consul's KV and to one in Nomad's variables, for the time of a `with` block.

    >>> with writing(nomad_cluster) as workload:  # doctest: +SKIP
    ...     with nomad_faults.kill("consul", leader):
    ...         workload.await_writes(within=30)
    ...     workload.verify()
    """
    for agent, servers in (("Consul", cluster.consul_servers), ("Nomad", cluster.nomad_servers)):
        if not servers:
            raise UsageError(f"expected {agent} servers to write to in {cluster.run_id}, found none that run")
    name = f"nomad-testkit/register-{secrets.token_hex(3)}"
    workload = Workload(
        [
            Register(ConsulKey(name), lambda: cluster.consul_servers),
            Register(NomadVariable(name), lambda: cluster.nomad_servers),
        ],
        cluster.run_id,
    )
    workload.start()
    try:
        workload.await_writes()
        yield workload
    finally:
        workload.stop()
