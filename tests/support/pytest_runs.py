"""pytest in a process of its own, with a small cluster: for tests of what it shows and of what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from nomad_testkit.settings import ENV_PREFIX
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

T = TypeVar("T")

SECONDS = 120.0
"""Until anything that a run is waited for has to come; far below what a run may wait for itself."""

CONFTEST = """
import os
from pathlib import Path

import pytest

from nomad_testkit.examples.example import Example
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

HERE = Path(__file__).parent


class Signs:
    def give(self, name, text=""):
        part = HERE / f"{name}.part"
        part.write_text(text)
        part.replace(HERE / name)

    def wait(self, name):
        wait_until(name, lambda: Ok(None) if (HERE / name).exists() else Pending("no"), deadline=Deadline.after(120))


@pytest.fixture(scope="session")
def signs():
    return Signs()


@pytest.fixture(scope="session")
def nomad_example(nomad_topology):
    own = HERE / "example"
    example = Example.load(own if own.exists() else f"nomad-consul-{nomad_topology}-cluster")
    sizes = [name for name in example.declarations if name.startswith("num_")]
    return example.replace(**dict.fromkeys(sizes, 1))
"""
"""A cluster with one host of each kind, and signs: files that the test inside and the test outside wait for."""


_GUARD = """trap '
for group in $groups; do kill -s KILL -- -$group; done
for run in "$NOMAD_TESTKIT_STATE"/runs/*; do test -d "$run" && "$PYTHON" -m nomad_testkit down "${run##*/}"; done
' EXIT
"""
"""Lines for a shell that ends with the process of these tests, however that ends. A pytest that was killed cannot end
what it has started: neither processes with a session of their own, nor a cluster that `up` has left up.
"""


class PytestRun:
    """One process, in a process group of its own as a shell gives it one."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    @property
    def deployed(self) -> list[str]:
        """The ids of the runs that it deployed."""
        return re.findall(r"deploying \S+ as (nt-\S+)", self.text)

    def await_value(self, what: str, look: Callable[[], T | None]) -> T:
        """Wait until `look` gives something, as long as the process lives."""

        def probe() -> Ok[T] | Pending | Broken:
            ended = self.process.poll() is not None
            if (value := look()) is not None:
                return Ok(value)
            return Broken(f"it has ended:\n{self.text}") if ended else Pending(self.text[-2000:])

        return wait_until(what, probe, deadline=Deadline.after(SECONDS), interval=0.01)

    def await_line(self, pattern: str) -> None:
        """Wait until it has printed something."""
        self.await_value(pattern, lambda: re.search(pattern, self.text))

    def await_end(self, within: float = SECONDS) -> int:
        """Wait until it ends, and give its exit status: negative for a signal's."""
        return self.process.wait(within)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal to every process of its group, as a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, so that nothing in it can clean up, and wait until it is dead."""
        self.process.kill()
        self.process.wait(SECONDS)


class Project:
    """A folder with tests, a state folder of its own, and the runs of pytest in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder / "project", folder / "state"
        self.folder.mkdir()
        (self.folder / "conftest.py").write_text(CONFTEST)
        self._runs: list[PytestRun] = []
        self._guard = subprocess.Popen(
            ["sh"],  # no more words: others look for processes by theirs
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NOMAD_TESTKIT_STATE": str(self.state), "PYTHON": sys.executable},
            text=True,
            start_new_session=True,
        )
        self._tell_guard(_GUARD)

    def _tell_guard(self, lines: str) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(lines)
        self._guard.stdin.flush()

    def write(self, text: str, name: str = "test_inner.py") -> None:
        """Write a file of it."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def start(self, *arguments: str) -> PytestRun:
        """Start pytest."""
        return self.start_module("pytest", *arguments)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of what runs in it: apart from the pytest and the settings that this test runs with."""
        unwanted = ("PYTEST_", ENV_PREFIX)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        if cache := os.environ.get("NOMAD_TESTKIT_CACHE"):
            environment["NOMAD_TESTKIT_CACHE"] = cache
        environment["NOMAD_TESTKIT_STATE"] = str(self.state)
        return environment

    def start_module(self, *arguments: str) -> PytestRun:
        """Start ``python -m`` with these arguments."""
        output = self.folder / f"output-{len(self._runs)}.txt"
        run = PytestRun([sys.executable, "-m", *arguments], self.folder, self.environment, output)
        self._runs.append(run)
        self.guard(run.process.pid)
        return run

    def guard(self, group: int) -> None:
        """Have a process group killed if the process of these tests is."""
        self._tell_guard(f'groups="$groups {group}"\n')

    def run(self, *arguments: str, within: float = SECONDS) -> tuple[int, str]:
        """Run pytest to its end; gives its exit status and what it printed."""
        run = self.start(*arguments)
        return run.await_end(within), run.text

    def sign(self, name: str) -> None:
        """Give a sign to the tests inside."""
        (self.folder / name).touch()

    def await_sign(self, run: PytestRun, name: str) -> str:
        """Wait for a sign from a test inside, and give its text."""
        path = self.folder / name
        return run.await_value(f"sign {name}", lambda: path.read_text() if path.exists() else None)

    @property
    def remembered(self) -> list[str]:
        """The runs that the state folder remembers."""
        folder = self.state / "runs"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    @property
    def shared(self) -> list[str]:
        """What workers of pytest-xdist share, or have left."""
        folder = self.state / "shared"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def journal(self) -> str:
        """The journals of all runs that are remembered."""
        text = ""
        for name in self.remembered:
            try:
                text += (self.state / "runs" / name / "journal.jsonl").read_text()
            except FileNotFoundError:
                continue
        return text

    def warden(self) -> int:
        """The process that looks after the cloud of the one run that is remembered."""
        (name,) = self.remembered
        told = json.loads((self.state / "runs" / name / "run.json").read_text())
        return int(told["target"]["warden_pid"])

    def end(self) -> None:
        """Kill whatever still runs."""
        for run in self._runs:
            try:
                os.killpg(run.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            run.process.wait(SECONDS)
        self._guard.kill()
        self._guard.wait(SECONDS)
        assert self._guard.stdin is not None
        self._guard.stdin.close()


@contextmanager
def project_in(folder: Path) -> Iterator[Project]:
    """Make a project that leaves no process running."""
    project = Project(folder)
    try:
        yield project
    finally:
        project.end()


def supervisors_of(warden: int) -> list[int]:
    """List the Python processes of a warden's cloud: the first only reaps, the last does the work."""
    parents: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    found, level = [], [warden]
    while level:
        level = sorted(pid for pid, parent in parents.items() if parent in level)
        for pid in level:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended meanwhile
            if words[1:3] == [b"-m", b"nomad_testkit.ec2.supervisor"]:
                found.append(pid)
    return found


def alive(pid: int) -> bool:
    """Whether a process lives; one that has ended may wait for somebody to ask how."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def await_end_of(warden: int, seconds: float = SECONDS) -> None:
    """Wait until nothing of a cloud runs."""

    def probe() -> Ok[None] | Pending:
        left = [warden] * alive(warden) + supervisors_of(warden)
        return Pending(f"{left} are there") if left else Ok(None)

    wait_until("the cloud's end", probe, deadline=Deadline.after(seconds))


def holder_of(lock: Path) -> int:
    """Tell which process holds an exclusive flock (proc(5), /proc/locks)."""
    inode = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, access, pid, where, *_ = line.split()
        if (kind, access, where.rpartition(":")[2]) == ("FLOCK", "WRITE", inode):
            return int(pid)
    raise AssertionError(f"nobody holds {lock}")
