"""The order of a deployment's life, whatever fails in it; what creates and what destroys are fakes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nomad_testkit import targets
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.deployment import evidence, lifecycle
from nomad_testkit.deployment.apply import Applied
from nomad_testkit.deployment.interrupts import Expired, Terminated, deferred, termination_raises
from nomad_testkit.deployment.readiness import Readiness
from nomad_testkit.errors import DeployError, Ec2Error, Missing, PreflightError, TeardownError, UsageError
from nomad_testkit.examples.example import Roles
from nomad_testkit.examples.security import Security
from nomad_testkit.modules.network import Instance
from nomad_testkit.runs.locks import FileLock
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

INSTANCE = Instance("i-1", "servers", "running", "172.31.0.4", "127.31.0.4", "us-east-1a", "ami-1")


class FakeTarget:
    name, region, inbound_cidrs = "fake", "us-east-1", ("169.254.253.1/32",)
    kept = False
    time_limit: float | None = None
    teardown_seconds = 120.0
    lost_by: str | None = None

    def address(self, instance: Instance) -> str:
        return "127.31.0.4"

    def keep(self) -> None:
        self.kept = True

    def lost(self) -> str | None:
        return self.lost_by

    def describe(self) -> dict[str, str]:
        return {"name": "fake", "endpoint_url": "http://127.31.255.1"}

    def client(self, service: str) -> Any:
        raise AssertionError(f"nobody asks {service} for anything here")


class Stage:
    """What was done, in its order, what is to fail, and what was said."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.said: list[str] = []
        self.target = FakeTarget()
        self.security = Security()
        self.tags: Mapping[str, str] = {}

    def act(self, what: str) -> None:
        self.done.append(what)
        if what in self.fail:
            raise self.fail[what]

    def prepare(self, example: Any, run: Run, *, public_key: str, tags: Mapping[str, str], **_: object) -> Any:
        assert public_key.startswith("ssh-ed25519 ")
        self.tags = tags
        self.act("prepare")

        def apply(*_: object) -> Applied:
            self.act("apply")
            return Applied(example, {}, {"servers": 1}, ssh_ports={"servers": 2222})

        return apply

    def await_hosts(self, expected: object, make: Callable[[Instance], Any], limits: object) -> list[Any]:
        host = make(INSTANCE)
        self.act("hosts")
        return [host]

    def sweep(self, *_: object, **__: object) -> list[str]:
        self.act("sweep")
        return ["one"]

    def collect(self, hosts: list[Any], folder: Path, **_: Any) -> None:
        self.act(f"evidence of {len(hosts)} hosts")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    stage = Stage()
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(lifecycle, "prepare", stage.prepare)
    monkeypatch.setattr(lifecycle, "sweep", stage.sweep)
    monkeypatch.setattr(evidence, "collect", stage.collect)
    monkeypatch.setattr(Readiness, "await_hosts", lambda self, *how: stage.await_hosts(*how))
    monkeypatch.setattr(Readiness, "await_agents", lambda self, cluster: stage.act("agents"))
    return stage


Deploy = Callable[..., AbstractContextManager[Cluster]]


@pytest.fixture
def deploy(stage: Stage, tmp_path: Path) -> Deploy:
    def start(name: str = "", **options: str) -> AbstractContextManager[Cluster]:
        example: Any = SimpleNamespace(
            name="example",
            ami_id="",
            ssh_user="admin",
            ssh_private_key_file=None,
            roles=Roles(("servers",), ("servers",), ()),
            security=stage.security,
            describe=lambda: {"folder": "/examples/example", "variables": {"num_clients": 1}},
        )
        settings = Settings.load(options={"nomad_artifacts": str(tmp_path / "evidence"), **options})
        how: Any = {"target": stage.target, "progress": stage.said.append, "name": name}
        return lifecycle.deployed(settings, example, **how)

    return start


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_it_is_lent_and_then_destroyed(stage: Stage, deploy: Deploy) -> None:
    with deploy() as cluster:
        assert stage.done == ["prepare", "apply", "hosts", "agents"]
        (run,) = Run.every()
        assert (run.run_id, run.used) == (cluster.run_id, True)
        assert run.folder.stat().st_mode & 0o777 == 0o700
        assert {path.name: path.stat().st_mode & 0o777 for path in run.folder.iterdir()} == {
            "id_ed25519": 0o600,
            "run.json": 0o600,
            "used.lock": 0o600,
        }
        assert run.description()["hosts"][0]["instance_id"] == "i-1"
    assert stage.done[4:] == ["sweep"]
    assert Run.every() == []


@pytest.mark.parametrize(("step", "seen"), [("prepare", 0), ("apply", 0), ("hosts", 1), ("agents", 1)])
def test_whatever_fails_it_is_destroyed_and_the_evidence_named(
    stage: Stage, deploy: Deploy, step: str, seen: int, tmp_path: Path
) -> None:
    stage.fail[step] = DeployError("the API said no")
    with pytest.raises(DeployError, match="the API said no") as caught, deploy():
        raise AssertionError("nothing is lent")
    assert stage.done[-2:] == [f"evidence of {seen} hosts", "sweep"]
    (note,) = caught.value.__notes__
    assert note.startswith("evidence of nt-")
    assert str(tmp_path / "evidence") in note
    assert Run.every() == []


def test_an_error_of_the_teardown_hides_no_other(stage: Stage, deploy: Deploy) -> None:
    stage.fail |= {"agents": DeployError("first"), "sweep": TeardownError("left: i-1")}
    with pytest.raises(DeployError, match="first") as caught, deploy():
        pass
    assert "then the teardown failed: left: i-1" in caught.value.__notes__[-1]
    (run,) = Run.every()  # still there for `down`
    assert f"python -m nomad_testkit down {run.run_id}" in caught.value.__notes__[-1]
    assert not run.used


def test_an_error_of_the_teardown_alone_is_raised(stage: Stage, deploy: Deploy) -> None:
    stage.fail["sweep"] = TeardownError("left: i-1")
    with pytest.raises(TeardownError, match="left: i-1"), deploy():
        pass


def test_a_failing_test_is_not_hidden_and_its_evidence_is_of_the_hosts_that_there_are_then(
    stage: Stage, deploy: Deploy
) -> None:
    def use(cluster: Cluster) -> None:
        object.__setattr__(cluster, "hosts", [*cluster.hosts, *cluster.hosts])  # as `refresh` does
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), deploy() as cluster:
        use(cluster)
    assert stage.done[-2:] == ["evidence of 2 hosts", "sweep"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_destroys_at_once(stage: Stage, deploy: Deploy, number: int) -> None:
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Terminated), deploy():
        os.kill(os.getpid(), number)
    assert stage.done == ["prepare", "apply", "hosts", "agents", "sweep"]


def test_a_second_ctrl_c_while_connections_close_does_not_skip_the_teardown(
    stage: Stage, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tox sends a SIGINT of its own as soon as the terminal's has come.
    monkeypatch.setattr(Host, "close", lambda self: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), deploy():
        raise KeyboardInterrupt
    assert stage.done[-1] == "sweep"
    assert Run.every() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_cut_the_teardown_short(
    stage: Stage, deploy: Deploy, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def kill_and_sweep(*_: object, **__: object) -> list[str]:
        os.kill(os.getpid(), number)
        return stage.sweep()

    monkeypatch.setattr(lifecycle, "sweep", kill_and_sweep)
    with pytest.raises(KeyboardInterrupt), deploy():
        raise KeyboardInterrupt
    assert stage.done[-1] == "sweep"
    assert any("destroying the cluster first" in line for line in stage.said)
    assert Run.every() == []


def test_a_signal_in_the_middle_of_a_write_does_not_cut_a_teardown_short() -> None:
    def report(line: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    done: list[str] = []

    def tear_down() -> None:
        with deferred(report):
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("destroyed")

    with pytest.raises(Terminated, match="SIGTERM"):
        tear_down()
    assert done == ["destroyed"]


def test_keep_destroys_nothing_and_says_how_to_reach_it(stage: Stage, deploy: Deploy) -> None:
    with deploy(nomad_keep="true"):
        pass
    assert "sweep" not in stage.done
    assert stage.target.kept
    (run,) = Run.every()
    assert run.description()["kept"] is True
    told = stage.said[-1].splitlines()
    assert "export NOMAD_ADDR=http://127.31.0.4:4646" in told
    assert "export CONSUL_HTTP_ADDR=http://127.31.0.4:8500" in told
    assert "export AWS_ENDPOINT_URL=http://127.31.255.1" in told
    assert any(f"-i {run.key_path} admin@127.31.0.4 -p 2222 " in line for line in told)
    assert told[-1] == f"python -m nomad_testkit down {run.run_id}"


def test_what_its_user_leaves_up_is_kept_and_found_by_its_name(stage: Stage, deploy: Deploy) -> None:
    with deploy(name="dev") as cluster:
        run = Run.find("dev")
        assert (run.run_id, str(run)) == (cluster.run_id, f"dev ({cluster.run_id})")
        run.leave_up()
    assert "sweep" not in stage.done
    assert stage.target.kept
    assert (run.used, run.description()["kept"]) == (False, True)
    assert run.description()["example"] == {"folder": "/examples/example", "variables": {"num_clients": 1}}


@pytest.mark.parametrize("error", [DeployError("the check said no"), KeyboardInterrupt()])
def test_what_fails_is_destroyed_though_it_was_to_be_left_up(
    stage: Stage, deploy: Deploy, error: BaseException
) -> None:
    def use(cluster: Cluster) -> None:
        Run.find(cluster.run_id).leave_up()
        raise error

    with pytest.raises(type(error)), deploy() as cluster:
        use(cluster)
    assert stage.done[-1] == "sweep"
    assert not stage.target.kept
    assert Run.every() == []


def test_a_cluster_with_secrets_is_reached_by_their_files(stage: Stage, deploy: Deploy) -> None:
    stage.security = Security(tls=True, gossip_encryption=True, acl=True)
    with deploy(nomad_keep="true") as cluster:
        (host,) = cluster.hosts
        assert host.nomad.address == "https://127.31.0.4:4646"
    (run,) = Run.every()
    assert run.secrets_path.stat().st_mode & 0o777 == 0o700
    told = stage.said[-1].splitlines()
    assert "export NOMAD_ADDR=https://127.31.0.4:4646" in told
    assert "export CONSUL_HTTP_ADDR=https://127.31.0.4:8501" in told
    assert f"export NOMAD_CACERT={run.secrets_path}/ca.pem" in told
    assert f'export NOMAD_TOKEN="$(cat {run.secrets_path}/nomad-management.token)"' in told
    assert f"export CONSUL_HTTP_TOKEN_FILE={run.secrets_path}/consul-management.token" in told
    shown = stage.said[-1] + (run.folder / "run.json").read_text()
    for name in ("nomad-management.token", "consul-management.token", "consul-gossip.key"):
        assert cluster.secrets is not None
        assert cluster.secrets[name] not in shown
    again = Cluster.from_description(run.description(), target=cluster.target)
    assert dict(again.secrets.values) == dict(cluster.secrets.values)  # type: ignore[union-attr]
    assert again.hosts[0].nomad.address == "https://127.31.0.4:4646"


def test_an_unknown_run_lists_those_that_there_are(stage: Stage) -> None:
    run = Run.new()
    with pytest.raises(UsageError, match=f"there is no run 'nt-1' .*; there are: {run.run_id}"):
        Run.find("nt-1")


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    def elsewhere() -> None:
        with termination_raises(), deferred(said.append):
            said.append("done")

    said: list[str] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert said == ["done"]


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether each cloud lives, by its name."""
    alive: dict[str, bool] = {}

    @contextmanager
    def attach(description: Mapping[str, Any]) -> Iterator[None]:
        if not alive[description["name"]]:
            raise Ec2Error("no embedded cloud is there")
        yield

    monkeypatch.setattr(targets, "attach_target", attach)
    return alive


def test_the_runs_of_killed_processes_are_forgotten(stage: Stage, deploy: Deploy, clouds: dict[str, bool]) -> None:
    clouds |= {"dead": False, "alive": True}
    dead, lives, used, kept, new, damaged = (Run.new() for _ in range(6))
    dead.note({"target": {"name": "dead"}})
    lives.note({"target": {"name": "alive"}})
    used.note({"target": {"name": "dead"}})
    kept.note({"target": {"name": "dead"}, "kept": True})
    (damaged.folder / "run.json").write_text("{")
    lock = used.lock
    assert lock.try_acquire()
    with deploy():
        left = {run.run_id for run in Run.every()}
        assert dead.run_id not in left
        assert left > {run.run_id for run in (lives, used, kept, new, damaged)}
    assert f"forgot {dead.run_id}: its process was killed and its embedded EC2 has ended" in stage.said
    lock.release()


def test_a_lost_target_ends_the_teardown_at_once(stage: Stage, deploy: Deploy) -> None:
    stage.target.lost_by = "it answers nothing"
    with (
        pytest.raises(Ec2Error, match=r"the resources of nt-\S+ ended before they were destroyed: it answers nothing"),
        deploy(),
    ):
        pass
    assert "sweep" not in stage.done
    assert Run.every() == []


@pytest.mark.parametrize("refusal", [UsageError("too dear"), PreflightError([Missing("vCPUs", "ask for more")])])
def test_what_is_refused_creates_nothing_and_leaves_no_evidence(
    stage: Stage, deploy: Deploy, refusal: Exception
) -> None:
    stage.fail["prepare"] = refusal
    with pytest.raises(type(refusal)) as caught, deploy():
        raise AssertionError("it is not deployed")
    assert caught.value is refusal
    assert stage.done == ["prepare", "sweep"]
    assert Run.every() == []


@pytest.mark.parametrize("options", [{}, {"nomad_keep": "true"}], ids=["", "kept"])
def test_when_the_time_is_up_the_user_is_interrupted_and_all_is_destroyed(
    options: dict[str, str], stage: Stage, deploy: Callable[..., Any]
) -> None:
    stage.target.time_limit = 4.0
    clusters: list[Cluster] = []

    def use() -> None:
        with deploy(**options) as cluster:
            clusters.append(cluster)
            threading.Event().wait(60)

    with pytest.raises(Expired, match=r"the time limit of nt-\d{8}-\w{6} has passed \(4.0 s\)"):
        use()
    assert clusters[0].expires is not None
    assert stage.tags == {"nomad-testkit-expires": clusters[0].expires}
    assert stage.done[-1] == "sweep"
    assert any("has passed (4.0 s)" in line for line in stage.said)


def test_a_time_limit_that_is_not_reached_interrupts_nobody(stage: Stage, deploy: Deploy) -> None:
    stage.target.time_limit = 60.0
    before = set(threading.enumerate())

    def timers() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if isinstance(one, threading.Timer) and one not in before]

    with deploy():
        assert len(timers()) == 1
    wait_until(
        "the limit's thread to end",
        lambda: Pending("it lives") if timers() else Ok(None),
        deadline=Deadline.after(10),
    )


def test_a_run_that_cannot_be_described_leaves_no_lock_and_no_folder(
    stage: Stage, deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks: list[FileLock] = []

    def acquire(self: FileLock, what: str) -> bool:
        locks.append(self)
        return self.try_acquire()

    monkeypatch.setattr(FileLock, "acquire", acquire)

    def note(self: Run, description: Mapping[str, Any]) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Run, "note", note)
    with pytest.raises(OSError, match="no space left"), deploy():
        pass
    assert [lock.held for lock in locks] == [False]
    assert Run.every() == []


@pytest.mark.parametrize("gone", ["folder", "lock"])
@pytest.mark.parametrize("look", ["used", "held", "shared", "description", "journal", "name"])
def test_looking_at_a_run_that_is_forgotten_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gone: str, look: str
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))
    run = Run.new()
    if gone == "folder":
        run.forget()
    else:  # the moment before its folder goes
        (run.folder / "used.lock").unlink()
    looks: dict[str, Callable[[], object]] = {
        "used": lambda: run.used,
        "held": run.held,
        "shared": lambda: run.held(shared=True),
        "description": run.description,
        "journal": run.journal.entries,
        "name": lambda: run.name,
    }
    assert not looks[look]()
    assert list((tmp_path / "state" / "runs").rglob("*")) == ([] if gone == "folder" else [run.folder])
