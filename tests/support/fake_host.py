"""A host that records what a host script does to it, and time that passes at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import host_commons
import pytest
from host_commons import Answer, Clock, HostFault, Service
from host_metadata import Metadata
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
            "systemctl show": (0, "ActiveState=inactive\nSubState=dead")
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


class FakeMetadata(Metadata):
    """What an instance knows of itself."""

    def __init__(self) -> None:
        pass

    def instance_id(self) -> str:
        return "i-0123456789abcdef0"

    def private_address(self) -> str:
        return "172.31.16.5"

    def region(self) -> str:
        return "us-east-1"

    def availability_zone(self) -> str:
        return "us-east-1b"


class FakeAgent(Service):
    """An agent whose `answers` to paths a test says: a status and a text, or None for a connection that is refused."""

    def __init__(self, answers: Mapping[str, tuple[int, str] | None] | None = None) -> None:
        super().__init__("127.0.0.1", 8500)
        self.answers = dict(answers or {})
        self.asked: list[str] = []
        self.bodies: list[bytes | None] = []
        self.headers: list[Mapping[str, str]] = []

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        self.asked.append(f"{method} {path}")
        self.bodies.append(body)
        self.headers.append(headers or {})
        answer = self.answer(method, path)
        if answer is None:
            raise ConnectionRefusedError("Connection refused")
        return Answer(answer[0], answer[1].encode())

    def answer(self, method: str, path: str) -> tuple[int, str] | None:
        return self.answers[path]


def agent_folder(folder: Path, agent: str) -> Path:
    """Lay out an agent's folder as its install script does, with a program that does nothing."""
    made = folder / agent
    for name in ("bin", "config", "data"):
        (made / name).mkdir(parents=True)
    (made / "bin" / agent).write_text("#!/bin/sh\n")
    (made / "bin" / agent).chmod(0o755)
    return made


def usage_of(parse: Callable[[list[str]], object], options: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Parse options that have to be refused, and give what is said of them."""
    with pytest.raises(SystemExit) as caught:
        parse(options.split())
    assert caught.value.code == 2
    return capsys.readouterr().err


def verify_unit(path: Path) -> tuple[int, str, str]:
    """Let systemd look at a unit; gives its exit status and what it says."""
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr
