"""One thing for all workers, proven with real processes and a thing that is only a line in a log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from nomad_testkit.cluster import discovery
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.deployment import lifecycle
from nomad_testkit.examples.example import Roles
from nomad_testkit.modules.network import Instance
from nomad_testkit.plugin import xdist_cluster
from nomad_testkit.plugin.xdist_cluster import Sharing, expect_worker
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

WORKER = """
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from nomad_testkit.plugin.xdist_cluster import Sharing

name, folder = sys.argv[1], Path(sys.argv[2])
log = folder / "log"

def say(line):
    with log.open("a") as file:
        file.write(line + "\\n")

@contextmanager
def make():
    say(f"made by {name}")
    if (folder / "fail").exists():
        raise RuntimeError("no room left")
    try:
        yield "thing"
    finally:
        if (folder / "slow").exists():
            print("destroying", flush=True)
        while (folder / "slow").exists():
            time.sleep(0.01)
        say(f"destroyed by {name}")

@contextmanager
def attach(description):
    say(f"used by {name}: {description['thing']}")
    if (folder / "unusable").exists():
        raise RuntimeError("it cannot be used")
    yield description["thing"]

sharing = Sharing.of({"PYTEST_XDIST_WORKER": name, "PYTEST_XDIST_TESTRUNUID": "run"}, folder / "state")
sharing.join()
print("joined", flush=True)
for line in sys.stdin:
    command = line.strip()
    if command == "use":
        context = sharing.shared(
            "thing", make,
            describe=lambda thing: {"thing": thing},
            attach=attach,
            inherit=lambda description: say(f"inherited by {name}"),
        )
        try:
            context.__enter__()
            print("using", flush=True)
        except Exception as error:
            print(f"error {error}", flush=True)
    elif command == "end":
        context.__exit__(None, None, None)
        sharing.leave()
        print("ended", flush=True)
    elif command == "leave":
        sharing.leave()
        print("left", flush=True)
"""


class Worker:
    """A process that shares a thing, step by step."""

    def __init__(self, name: str, folder: Path) -> None:
        command = [sys.executable, "-c", WORKER, name, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.hear() == "joined"

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Stage:
    """Workers, started when they are first named, and what they have done with the thing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: dict[str, Worker] = {}

    def play(self, steps: str) -> None:
        """Take steps: ``gw0 use: using`` tells a worker something and hears its answer.

        ``gw0 end`` does not wait for the answer, ``gw0: ended`` hears it later, ``gw0`` only starts the worker. ``+``
        and ``-`` make and remove a file, which changes what the workers do.
        """
        for step in steps.split(", "):
            asked, _, answer = step.partition(": ")
            name, _, command = asked.partition(" ")
            if name[0] == "+":
                (self.folder / name[1:]).touch()
            elif name[0] == "-":
                (self.folder / name[1:]).unlink()
            else:
                self._take(name, command, answer)

    def _take(self, name: str, command: str, answer: str) -> None:
        if name not in self.workers:
            self.workers[name] = Worker(name, self.folder)
        worker = self.workers[name]
        if command == "die":
            worker.process.kill()
            worker.process.wait()
        elif command:
            worker.tell(command)
        if answer:
            assert worker.hear() == answer, f"{name} {command}"

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    @property
    def shared(self) -> list[Path]:
        return list((self.folder / "state" / "shared").iterdir())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    for worker in made.workers.values():
        worker.close()


# A worker that made the thing waits at its end until all others have gone.
PLAYS = {
    "the first makes it and the last out destroys it": (
        "gw0, gw1, gw0 use: using, gw1 use: using, gw0 end, gw1 end: ended, gw0: ended",
        ["made by gw0", "used by gw1: thing", "destroyed by gw0"],
    ),
    "nothing is destroyed while a worker may still come": (
        "gw0, gw1, gw0 use: using, gw0 end, gw1 use: using, gw1 end: ended, gw0: ended",
        ["made by gw0", "used by gw1: thing", "destroyed by gw0"],
    ),
    "a worker that never used it lets it go by leaving": (
        "gw0, gw1, gw0 use: using, gw0 end, gw1 leave: left, gw0: ended",
        ["made by gw0", "destroyed by gw0"],
    ),
    "a worker that cannot use it keeps nobody waiting": (
        "gw0, gw1, gw0 use: using, +unusable, gw1 use: error it cannot be used, gw1 leave: left, gw0 end, gw0: ended",
        ["made by gw0", "used by gw1: thing", "destroyed by gw0"],
    ),
    "another destroys it when its maker has died": (
        "gw0, gw1, gw0 use: using, gw1 use: using, gw0 die, gw1 end: ended",
        ["made by gw0", "used by gw1: thing", "inherited by gw1"],
    ),
    "a worker that replaces a dead one makes another": (
        "gw0 use: using, gw0 die, gw1 use: using, gw1 end: ended",
        ["made by gw0", "inherited by gw1", "made by gw1", "destroyed by gw1"],
    ),
    "a worker that comes while it is destroyed makes another": (
        "+slow, gw0 use: using, gw0 end: destroying, gw1, gw1 use, -slow, gw0: ended, gw1: using",
        ["made by gw0", "destroyed by gw0", "made by gw1"],
    ),
    "what a worker was destroying when it died is destroyed by the next": (
        "+slow, gw0 use: using, gw0 end: destroying, gw0 die, gw1 use: using",
        ["made by gw0", "inherited by gw1", "made by gw1"],
    ),
}


@pytest.mark.parametrize("name", PLAYS)
def test_workers_share_one_thing(stage: Stage, name: str) -> None:
    steps, log = PLAYS[name]
    stage.play(steps)
    assert stage.log == log
    assert log[-1] != "destroyed by gw0" or stage.shared == []


def test_all_fail_when_the_first_could_not_make_it(stage: Stage) -> None:
    stage.play("+fail, gw0, gw1, gw0 use: error no room left, gw1 use: error no room left")
    assert stage.log == ["made by gw0"]


def test_others_wait_for_a_maker_that_dies_and_then_make_it(stage: Stage) -> None:
    stage.play("gw0, gw1, gw0 use: using")
    (stage.shared[0] / "thing" / "result.json").unlink()  # as if still at work
    stage.play("gw1 use")

    def alone() -> Ok[None] | Pending:
        return Ok(None) if stage.log == ["made by gw0"] else Pending(str(stage.log))

    wait_until("gw1 to wait", alone, deadline=Deadline.after(5))
    stage.play("gw0 die, gw1: using")
    assert stage.log == ["made by gw0", "made by gw1"]


def test_it_is_kept_for_a_worker_that_the_controller_is_starting(stage: Stage) -> None:
    assert expect_worker(stage.folder / "state", "run") is None  # nothing is shared yet
    stage.play("gw0, gw1, gw0 use: using, gw1 use: using, gw1 die")
    expected = expect_worker(stage.folder / "state", "run")
    assert expected is not None
    stage.play("gw0 end, gw2")
    expected.release()
    stage.play("gw2 use: using, gw2 end: ended, gw0: ended")
    assert stage.log == ["made by gw0", "used by gw1: thing", "used by gw2: thing", "destroyed by gw0"]


def test_the_folder_is_its_owners_alone(stage: Stage) -> None:
    stage.play("gw0 use: using")
    (folder,) = stage.shared
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "thing" / "result.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("keep", "known", "destroyed"), [(False, True, 1), (True, True, 0), (False, False, 0)])
def test_a_run_that_is_inherited_is_destroyed_unless_it_is_kept(
    keep: bool, known: bool, destroyed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    run, gone = Run.new(), list[str]()
    monkeypatch.setattr(lifecycle, "destroy", lambda one, **_: gone.append(one.run_id))
    description: dict[str, Any] = {"run_id": run.run_id if known else "nt-20260314-ffffff"}
    xdist_cluster._inherit(description, settings=Settings(keep=keep), opened=Mock(), progress=print)
    assert gone == [run.run_id] * destroyed


def test_without_xdist_nothing_is_written(tmp_path: Path) -> None:
    alone = Sharing.of({}, tmp_path)
    alone.join()
    assert alone.folder is None
    alone.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_comes_late_sees_the_hosts_that_run_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))

    def instance(number: int) -> Instance:
        return Instance(f"i-{number}", "servers", "running", f"172.31.0.{number}", "", "us-east-1a", "ami-1")

    monkeypatch.setattr(discovery, "instances", lambda client, run_id, **_: [instance(2), instance(3)])
    opened: Any = SimpleNamespace(client=None, describe=dict, address=lambda one: f"127.31.0.{one.instance_id[2:]}")
    example: Any = SimpleNamespace(folder=Path("example"), variables={}, deployed=lambda outputs: None)
    run = Run.new()
    host = Host(instance(1), address="127.31.0.1", ssh_user="admin", key_path=Path("key"))
    deployed = Cluster(run.run_id, opened, [host], Roles(("servers",), ("servers",), ()), "admin", Path("key"))
    run.note({**deployed.describe(), "sizes": {"servers": 2}})  # another worker has scaled it since

    late = xdist_cluster._as_it_is_now(deployed.describe(), opened, example)
    assert [host.instance_id for host in late.hosts] == ["i-2", "i-3"]
    assert (late.sizes, list(late.missing_hosts)) == ({"servers": 2}, [])
    late.resize("servers", 4)
    assert run.description()["sizes"] == {"servers": 4}


def test_a_worker_that_comes_as_the_last_user_leaves_waits(tmp_path: Path) -> None:
    """Between its look and its hold on the thing somebody has begun to destroy it."""
    looks = iter([{"description": {"run": "nt-1"}}, None])
    users = Mock()
    owner = SimpleNamespace(try_acquire=lambda: False)
    place: Any = SimpleNamespace(result=lambda: next(looks), owner=owner, users=users, folder=tmp_path)
    found = Sharing._find(cast("Any", SimpleNamespace(worker="gw0")), place, lambda left: None)
    assert found == Pending("it is being destroyed")
    users.release.assert_called_once_with()
