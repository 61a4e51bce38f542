"""A host that records what a host script does to it, and time that passes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import host_commons
from host_commons import Clock, HostFault
from host_systemd import Host

SCRIPTS = Path(host_commons.__file__).parent


class FakeClock(Clock):
    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.time += seconds


class FakeHost(Host):
    """`answers` maps the beginning of a command to its status and output, or to a function giving them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.unit_dir = folder / "units"
        self.environment_dir = folder / "default"
        self.unit_dir.mkdir()
        self.root = True
        self.users = {"root", "consul", "nomad"}
        self.commands: list[str] = []
        self.owners: dict[str, str] = {}
        self.journaled: list[tuple[str, str]] = []
        self.answers: dict[str, tuple[int, str] | Callable[[], tuple[int, str]]] = {
            "systemctl show": (0, "ActiveState=inactive\nSubState=dead"),
        }

    def require_root(self) -> None:
        if not self.root:
            raise HostFault("must be run as root, and runs as user 1000: use sudo")

    def run(self, command: Sequence[str], *, seconds: float = 60.0) -> tuple[int, str]:
        line = " ".join(command)
        self.commands.append(line)
        if command[0] == "useradd":
            self.users.add(command[-1])
        for beginning, answer in self.answers.items():
            if line.startswith(beginning):
                return answer() if callable(answer) else answer
        return 0, ""

    def owner(self, folder: Path) -> str:
        return self.owners.get(folder.name, "consul")

    def ids(self, user: str) -> tuple[int, int]:
        if user not in self.users:
            raise HostFault(f"there is no user {user} on this host")
        return os.getuid(), os.getgid()

    def chown(self, path: Path, user: str) -> None:
        self.ids(user)
        assert path.exists()
        self.owners[path.name] = user

    def journal(self, unit: str, text: str) -> None:
        self.journaled.append((unit, text))

    def ran(self, beginning: str) -> bool:
        return any(command.startswith(beginning) for command in self.commands)
