"""One thing for all workers, proven with real processes and a thing that is only a line in a log."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
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
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hear() == "joined"

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, command: str) -> str:
        self.tell(command)
        return self.hear()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    started: list[Worker] = []

    def start(name: str) -> Worker:
        started.append(Worker(name, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.close()


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def test_the_first_makes_it_and_the_last_out_destroys_it(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "using"
    assert gw1.do("use") == "using"
    gw0.tell("end")  # it made the thing, so it waits
    assert gw1.do("end") == "ended"
    assert gw0.hear() == "ended"
    assert log(tmp_path) == ["made by gw0", "used by gw1: thing", "destroyed by gw0"]
    assert list((tmp_path / "state" / "shared").iterdir()) == []


def test_nothing_is_destroyed_while_a_worker_may_still_come(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "using"
    gw0.tell("end")
    assert gw1.do("use") == "using"
    assert gw1.do("end") == "ended"
    assert gw0.hear() == "ended"
    assert log(tmp_path) == ["made by gw0", "used by gw1: thing", "destroyed by gw0"]


def test_a_worker_that_never_used_it_lets_it_go_by_leaving(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "using"
    gw0.tell("end")
    assert gw1.do("leave") == "left"
    assert gw0.hear() == "ended"
    assert log(tmp_path) == ["made by gw0", "destroyed by gw0"]


def test_all_fail_when_the_first_could_not_make_it(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "error no room left"
    assert gw1.do("use") == "error no room left"
    assert log(tmp_path) == ["made by gw0"]


def test_a_worker_that_cannot_use_it_keeps_nobody_waiting(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "using"
    (tmp_path / "unusable").touch()
    assert gw1.do("use") == "error it cannot be used"
    assert gw1.do("leave") == "left"
    gw0.tell("end")
    assert gw0.hear() == "ended"
    assert log(tmp_path) == ["made by gw0", "used by gw1: thing", "destroyed by gw0"]


def test_another_destroys_it_when_its_maker_has_died(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "using"
    assert gw1.do("use") == "using"
    gw0.kill()
    assert gw1.do("end") == "ended"
    assert log(tmp_path) == ["made by gw0", "used by gw1: thing", "inherited by gw1"]


def test_a_worker_that_replaces_a_dead_one_makes_another(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0 = worker("gw0")
    assert gw0.do("use") == "using"
    gw0.kill()
    gw1 = worker("gw1")
    assert gw1.do("use") == "using"
    assert gw1.do("end") == "ended"
    assert log(tmp_path) == ["made by gw0", "inherited by gw1", "made by gw1", "destroyed by gw1"]


def test_others_wait_for_a_maker_that_dies_and_then_make_it(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "using"
    (next((tmp_path / "state" / "shared").iterdir()) / "thing" / "result.json").unlink()  # as if still at work
    gw1.tell("use")

    def alone() -> Ok[None] | Pending:
        return Ok(None) if log(tmp_path) == ["made by gw0"] else Pending(str(log(tmp_path)))

    wait_until("gw1 to wait", alone, deadline=Deadline.after(5))
    gw0.kill()
    assert gw1.hear() == "using"
    assert log(tmp_path) == ["made by gw0", "made by gw1"]


def test_a_worker_that_comes_while_it_is_destroyed_makes_another(
    worker: Callable[[str], Worker], tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    gw0 = worker("gw0")
    assert gw0.do("use") == "using"
    assert gw0.do("end") == "destroying"
    gw1 = worker("gw1")
    gw1.tell("use")
    (tmp_path / "slow").unlink()
    assert (gw0.hear(), gw1.hear()) == ("ended", "using")
    assert log(tmp_path) == ["made by gw0", "destroyed by gw0", "made by gw1"]


def test_what_a_worker_was_destroying_when_it_died_is_destroyed_by_the_next(
    worker: Callable[[str], Worker], tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    gw0 = worker("gw0")
    assert gw0.do("use") == "using"
    assert gw0.do("end") == "destroying"
    gw0.kill()
    gw1 = worker("gw1")
    assert gw1.do("use") == "using"
    assert log(tmp_path) == ["made by gw0", "inherited by gw1", "made by gw1"]


def test_it_is_kept_for_a_worker_that_the_controller_is_starting(
    worker: Callable[[str], Worker], tmp_path: Path
) -> None:
    assert expect_worker(tmp_path / "state", "run") is None  # nothing is shared yet
    gw0, gw1 = worker("gw0"), worker("gw1")
    assert gw0.do("use") == "using"
    assert gw1.do("use") == "using"
    gw1.kill()
    expected = expect_worker(tmp_path / "state", "run")
    assert expected is not None
    gw0.tell("end")
    gw2 = worker("gw2")
    expected.release()
    assert gw2.do("use") == "using"
    assert gw2.do("end") == "ended"
    assert gw0.hear() == "ended"
    assert log(tmp_path) == ["made by gw0", "used by gw1: thing", "used by gw2: thing", "destroyed by gw0"]


def test_the_folder_is_its_owners_alone(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    gw0 = worker("gw0")
    assert gw0.do("use") == "using"
    (folder,) = (tmp_path / "state" / "shared").iterdir()
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
