"""Key/value stores in memory with several servers: one that is right, and some that are each wrong in one way."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nomad_testkit.errors import AgentApiError
from nomad_testkit.faults.linearizability.kv_clients import Reads, Server

Entry = tuple[bytes, int]


class MemoryStore:
    """What all servers share; linearizable, and answers a moment after it has done a thing."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.index = 0
        self.asked: list[tuple[str, str]] = []
        """By which server what was done, and with which consistency it was read."""
        self.open = 0
        """How many clients are connected."""
        self.lock = threading.Lock()
        self.dice = random.Random(1)

    def server(self, name: str) -> Server:
        @contextmanager
        def connect() -> Iterator[MemoryServer]:
            with self.lock:
                self.open += 1
            try:
                yield MemoryServer(self, name)
            finally:
                with self.lock:
                    self.open -= 1

        return Server(name, connect)

    # What those that are wrong do otherwise.

    def read(self, key: str, name: str) -> Entry | None:
        return self.entries.get(key)

    def write(self, key: str, value: bytes | None) -> None:
        self.index += 1
        if value is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = value, self.index

    def matches(self, key: str, index: int) -> bool:
        return self.entries.get(key, (b"", 0))[1] == index


class MemoryServer:
    """One server of a store in memory, for one client."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self.store, self.name = store, name

    def read_key(self, key: str, consistency: Reads) -> Entry | None:
        with self.store.lock:
            self.store.asked.append((self.name, consistency))
            found = self.store.read(key, self.name)
        time.sleep(self.store.dice.random() / 1000)
        return found

    def put_key(self, key: str, value: bytes | str, *, cas: int | None = None) -> bool:
        time.sleep(self.store.dice.random() / 1000)
        with self.store.lock:
            self.store.asked.append((self.name, "put" if cas is None else "cas"))
            if cas is not None and not self.store.matches(key, cas):
                return False
            self.store.write(key, value if isinstance(value, bytes) else value.encode())
        time.sleep(self.store.dice.random() / 1000)
        return True

    def delete_key(self, key: str, *, recurse: bool = False) -> None:
        with self.store.lock:
            self.store.asked.append((self.name, "delete"))
            for one in [one for one in self.store.entries if one == key or (recurse and one.startswith(key))]:
                self.store.write(one, None)


class Lagging(MemoryStore):
    """The server named b gives what was there a few writes ago, as a follower does that is behind."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[dict[str, Entry]] = []

    def read(self, key: str, name: str) -> Entry | None:
        return self.before[0].get(key) if name == "b" and self.before else super().read(key, name)

    def write(self, key: str, value: bytes | None) -> None:
        self.before = [*self.before, dict(self.entries)][-5:]
        super().write(key, value)


class Losing(MemoryStore):
    """Loses one of three writes that it acknowledges."""

    def write(self, key: str, value: bytes | None) -> None:
        if self.dice.random() > 1 / 3:
            super().write(key, value)


class Careless(MemoryStore):
    """Does a compare-and-set without comparing."""

    def matches(self, key: str, index: int) -> bool:
        return True


class Interrupted(MemoryStore):
    """Fails some writes, half of these after it was done, with the same words."""

    failing, says = 0.1, "rpc error making call: leadership lost while committing log"

    def write(self, key: str, value: bytes | None) -> None:
        dice = self.dice.random()
        if dice > self.failing / 2:
            super().write(key, value)
        if dice < self.failing:
            raise AgentApiError("consul", "memory", 500, self.says)


class Lying(Interrupted):
    """Claims that it has passed nothing on, and may have done it all the same."""

    failing, says = 0.6, "rpc error getting client: failed to get conn"
