"""Clients that read and write a few keys at the same time, each by one server, and record what came of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from nomad_testkit.cluster.clients.session import never_sent
from nomad_testkit.errors import AgentApiError
from nomad_testkit.faults.linearizability.history import Ending, Kind, Operation, OperationHistory

Reads = Literal["consistent", "default", "stale"]
"""Consul's consistency modes of reads (https://developer.hashicorp.com/consul/api-docs/features/consistency)."""

EACH = 3
"""How many clients each server has."""
KEYS = 3
"""How many keys are in use at a time, so that clients get in each other's way."""
KEY_SECONDS = 5.0
"""After which other keys are used: the longer a history of one key is, the longer takes its check."""
PAUSE = 0.01
"""Seconds between two operations of a client."""
PAUSE_WITHOUT = 0.2
"""Seconds after one that came to nothing."""
ANSWER_SECONDS = 3.0
"""Until an operation without an answer counts as one of unknown outcome."""
_NOT_PASSED_ON = ("No cluster leader", "Raft leader not found in server lookup mapping", "rpc error getting client")
"""What Consul says of a request before it is sent to a leader (agent/consul/rpc.go and agent/pool/pool.go of 1.14)."""
_WRITERS_DO: tuple[Kind, ...] = ("get",) * 8 + ("put",) * 6 + ("cas",) * 5 + ("delete",)


class Store(Protocol):
    """A key/value store by one of its servers, as ConsulClient is one; every method raises AgentApiError."""

    def read_key(self, key: str, consistency: Reads) -> tuple[bytes, int] | None:
        """Give value and index of the last change, None where there is no such key."""
        ...

    def put_key(self, key: str, value: bytes | str, *, cas: int | None = None) -> bool:
        """Write a value, with `cas` only if that is still the index; tell whether it was written."""
        ...

    def delete_key(self, key: str) -> None:
        """Delete a key."""
        ...


@dataclass(frozen=True, slots=True)
class Server:
    """A server of the store, and how another client of it is made."""

    name: str
    connect: Callable[[], AbstractContextManager[Store]]


class _Client:
    """One client, which does one thing after the other."""

    def __init__(self, number: int, server: Server, history: OperationHistory, reads: Reads) -> None:
        self.number, self.server, self.history, self.reads = number, server, history, reads
        self._process = history.new_process()
        self._known: dict[str, tuple[str | None, int]] = {}  # what it found last, by key: value and index

    def run(self, prefix: str, does: Sequence[Kind], dice: random.Random, stop: threading.Event) -> None:
        """Do one thing after the other, by chance."""
        with self.server.connect() as store:
            while not stop.is_set():
                kind = dice.choice(does)
                key = f"{prefix}/{int(self.history.now() / 1e9 / KEY_SECONDS)}-{dice.randrange(KEYS)}"
                ended = self.do(store, "get" if kind == "cas" and key not in self._known else kind, key)
                stop.wait(PAUSE if ended == "ok" else PAUSE_WITHOUT)

    def do(self, store: Store, kind: Kind, key: str) -> Ending:
        """Do one thing, and record it."""
        number = self.history.new_id()
        value = f"v{number}" if kind in ("put", "cas") else None
        expected, index = self._known.pop(key) if kind == "cas" else (None, 0)
        done, error, returned = False, "", None
        outcome: Ending = "ok"
        call = self.history.now()
        try:
            if kind == "get":
                found = store.read_key(key, self.reads)
                value, index = (found[0].decode(), found[1]) if found else (None, 0)
            elif kind == "delete":
                store.delete_key(key)
            else:
                done = store.put_key(key, value or "", cas=index if kind == "cas" else None)
            returned = self.history.now()
        except AgentApiError as refused:
            outcome = "failed" if without_effect(refused) else "unknown"
            error = refused.message.strip()
        if kind == "get" and outcome == "ok":
            self._known[key] = (value, index)
        who = (self.number, self._process, self.server.name)
        self.history.add(
            Operation(number, *who, kind, key, call, returned, outcome, value, index, expected, done, error)
        )
        if outcome == "unknown":
            self._process = self.history.new_process()
        return outcome


def without_effect(error: AgentApiError) -> bool:
    """Whether a write certainly has no effect: it got to no server, or to none that could pass it on to a leader.

    Any other answer leaves that open: a server may have put the write in its log, and then have lost its leadership.
    """
    refused = error.status is not None and 400 <= error.status < 500
    return never_sent(error) or refused or any(words in error.message for words in _NOT_PASSED_ON)


@contextmanager
def working(
    servers: Sequence[Server], history: OperationHistory, *, prefix: str, seed: int, reads: Reads, each: int = EACH
) -> Iterator[None]:
    """Let `each` clients work on every server for the time of a `with` block; what ends one of them is raised then.

    The last one of each server only reads: it never waits for a write that its server cannot do.
    """
    stop = threading.Event()
    running: list[Future[None]] = []
    with ThreadPoolExecutor(len(servers) * each, thread_name_prefix="nomad-testkit-kv") as pool:
        try:
            for number, server in enumerate(server for server in servers for _ in range(each)):
                only_reads = each > 1 and number % each == each - 1
                dice = random.Random(f"{seed}, client {number}")  # noqa: S311
                client = _Client(number, server, history, reads)
                running.append(pool.submit(client.run, prefix, ("get",) if only_reads else _WRITERS_DO, dice, stop))
            yield
        finally:
            stop.set()
    for one in running:
        one.result()


def read_everything(servers: Sequence[Server], history: OperationHistory) -> bool:
    """Read every key that was ever used once more, consistently; tell whether all was answered.

    By this a write that was lost is seen, even where no client looked for it any more.
    """
    keys = sorted({one.key for one in history.operations})
    first = max((one.client for one in history.operations), default=0) + 1
    endings: set[Ending] = set()
    for number, server in enumerate(servers):
        client = _Client(first + number, server, history, "consistent")
        with server.connect() as store:
            endings |= {client.do(store, "get", key) for key in keys[number :: len(servers)]}
    return endings <= {"ok"}
