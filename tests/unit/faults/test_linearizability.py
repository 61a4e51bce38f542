"""The work of the clients, the sequence of faults, and what comes of a check: all but the checker itself."""

from __future__ import annotations

import json
import re
import shlex
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
from fault_lab import cluster_of
from kv_stores import Careless, Interrupted, Lagging, Losing, Lying, MemoryServer, MemoryStore
from recording_host import RecordingHost

from nomad_testkit.cluster.clients import ConsulClient
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.errors import AgentApiError, CheckFailed, FaultError, UsageError, WaitTimeout
from nomad_testkit.faults import Fault, Faults
from nomad_testkit.faults.linearizability import FaultStep, check_kv, kv_clients, sequence, steps
from nomad_testkit.faults.linearizability.checker import Judgement, get_checker, judge
from nomad_testkit.faults.linearizability.history import Operation, OperationHistory
from nomad_testkit.faults.linearizability.kv_clients import read_everything, without_effect, working
from nomad_testkit.images.cache import Cache
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE", "PAUSE_WITHOUT"):
        monkeypatch.setattr(kv_clients, name, 0.001)


# -- clients


def work(store: MemoryStore, operations: int = 400, **how: Any) -> OperationHistory:
    history, servers = OperationHistory(), [store.server(name) for name in "abc"]
    with working(servers, history, **{"prefix": "test", "seed": 1, "reads": "consistent", **how}):
        await_operations(history, operations)
    assert read_everything(servers, history)
    return history


def await_operations(history: OperationHistory, count: int) -> None:
    def probe() -> Ok[None] | Pending:
        done = len(history.operations)
        return Ok(None) if done >= count else Pending(f"{done} operations")

    wait_until(f"{count} operations", probe, deadline=Deadline.after(20), interval=0.01)


@pytest.mark.parametrize(
    ("store", "verdict"),
    [
        *((store, "ok") for store in (MemoryStore, Interrupted)),
        *((store, "illegal") for store in (Lagging, Losing, Careless, Lying)),
    ],
)
def test_what_the_clients_see_gives_a_wrong_store_away(store: type[MemoryStore], verdict: str, tmp_path: Path) -> None:
    history = work(store())
    history.write(tmp_path / "history.jsonl")
    assert (tmp_path / "history.jsonl").stat().st_mode & 0o777 == 0o600
    found = judge(get_checker(Cache(), print), tmp_path / "history.jsonl")
    assert found.verdict == verdict
    assert found.operations > 300


def test_every_server_has_clients_that_write_and_one_that_only_reads() -> None:
    store = MemoryStore()
    history = work(store, reads="stale")
    by_client: dict[tuple[str, int], set[str]] = {}
    for one in history.operations:
        by_client.setdefault((one.server, one.client), set()).add(one.kind)
    everything = {"get", "put", "cas", "delete"}
    assert [kinds for _, kinds in sorted(by_client.items(), key=lambda item: item[0][1])] == [
        *[everything, everything, {"get"}] * 3,
        *[{"get"}] * 3,  # who reads all of it at the end
    ]
    assert {name for name, _ in by_client} == {"a", "b", "c"}
    assert Counter(what for _, what in store.asked)["consistent"] == len({one.key for one in history.operations})
    assert store.open == 0


def test_the_history_has_each_operation_once_and_no_value_twice(tmp_path: Path) -> None:
    history = work(MemoryStore())
    history.write(tmp_path / "history.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["call"] for line in lines] == sorted(one.call for one in history.operations)
    assert Operation(**lines[0]) in history.operations
    for values in (
        [one.id for one in history.operations],
        [one.value for one in history.operations if one.kind in ("put", "cas")],
    ):
        assert len(set(values)) == len(values) > 0
    assert all(one.call <= (one.returned or 0) for one in history.operations)


def test_other_keys_are_used_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_clients, "KEY_SECONDS", 0.05)
    keys = {one.key for one in work(MemoryStore()).operations}
    assert {"test/0-0", "test/1-2"} < keys
    assert all(re.fullmatch(r"test/\d+-[012]", key) for key in keys)


def test_a_client_without_an_answer_goes_on_as_another_process() -> None:
    history = work(Interrupted())
    unknown = [one for one in history.operations if one.outcome == "unknown"]
    assert unknown
    assert {one.returned for one in unknown} == {None}
    for one in unknown:
        assert not [other for other in history.operations if other.process == one.process and other.call > one.call]


class Failing(MemoryStore):
    """Raises an error whenever it is read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, key: str, name: str) -> tuple[bytes, int] | None:
        raise self.error


def test_what_ends_a_client_is_raised() -> None:
    servers = [Failing(ZeroDivisionError()).server("a")]
    with pytest.raises(ZeroDivisionError), working(servers, OperationHistory(), prefix="test", seed=1, reads="stale"):
        pass


def test_a_last_read_without_an_answer_is_told() -> None:
    store, silent = MemoryStore(), Failing(AgentApiError("consul", "memory", 500, "No cluster leader"))
    history = work(store)
    assert not read_everything([store.server("a"), silent.server("b")], history)
    assert read_everything([store.server("a"), store.server("b")], history)


@pytest.mark.parametrize(
    ("status", "message", "none"),
    [
        (500, "No cluster leader", True),
        (500, "rpc error making call: No cluster leader", True),
        (500, "Raft leader not found in server lookup mapping", True),
        (500, "rpc error getting client: failed to get conn: dial tcp 172.31.0.4:8300: i/o timeout", True),
        (403, "Permission denied", True),
        (500, "rpc error making call: EOF", False),
        (500, "rpc error making call: leadership lost while committing log", False),
        (500, "node is not the leader", False),
        (None, "no answer in time", False),
    ],
)
def test_only_what_was_never_passed_on_has_no_effect(status: int | None, message: str, none: bool) -> None:
    assert without_effect(AgentApiError("consul", "http://127.0.0.1:8500", status, message)) is none


def test_a_refused_connection_has_no_effect_and_a_lost_one_may() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(AgentApiError) as lost:
            ConsulClient(f"http://127.0.0.1:{port}").put_key("key", "value")
        thread.join()
    with pytest.raises(AgentApiError, match="connection refused") as refused:
        ConsulClient(f"http://127.0.0.1:{port}").put_key("key", "value")
    assert (without_effect(lost.value), without_effect(refused.value)) == (False, True)


# -- sequences of faults


def test_a_seed_stands_for_one_sequence() -> None:
    def first(seed: int, servers: int = 3) -> list[FaultStep]:
        return list(islice(steps(seed, servers), 50))

    assert first(7) == first(7)
    assert first(7) != first(8)
    # Written down, since a seed in an old failure is to replay it with a newer Python, too.
    assert first(7)[:2] == [
        FaultStep("stop", 0, pause=2.13, lasts=1.83),
        FaultStep("kill all", 0, pause=1.96, lasts=5.59),
    ]
    assert {step.kind for step in first(1) + first(2) + first(3)} == set(sequence.KINDS)
    assert {step.server for step in first(1)} == {0, 1, 2}
    assert {step.kind for step in first(1, servers=1)} == set(sequence.ALONE)
    for step in first(1) + first(2, servers=5):
        step.check(5)


class StoreHost(RecordingHost):
    """A server of a store in memory; `leader` is whom it names as its leader."""

    def __init__(self, number: int, store: MemoryStore) -> None:
        super().__init__(number, "servers")
        self.store, self.leader = store, "172.31.0.10:8300"

    def connect_consul(self, *, timeout: float) -> ConsulClient:
        server = MemoryServer(self.store, self.instance_id)
        server.close = lambda: None  # type: ignore[attr-defined]
        server.leader = lambda: self.leader  # type: ignore[attr-defined]
        return cast("ConsulClient", server)

    @property
    def consul(self) -> ConsulClient:
        return self.connect_consul(timeout=1)


class FakeFaults:
    """Faults that are only lines in a list, and take no time."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.lines = cluster, list[str]()

    def __getattr__(self, name: str) -> Callable[..., Fault]:
        def make(*args: Any, **how: Any) -> Fault:
            real: Fault = getattr(Faults(self.cluster), name)(*args, **how)
            self.lines.append(real.what)
            return Fault(real.what, lambda repairs: repairs.add("undo", lambda: self.lines.append("undone")))

        return make


def made_cluster(store: MemoryStore, folder: Path) -> Cluster:
    folder.mkdir(exist_ok=True)
    # The leader, 10, is not the first one, and 9 comes before 10 only as a number.
    return cluster_of([StoreHost(number, store) for number in (11, 9, 10)], folder)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return made_cluster(MemoryStore(), tmp_path / "run")


@pytest.fixture
def faults(cluster: Cluster) -> FakeFaults:
    return FakeFaults(cluster)


def as_faults(fake: FakeFaults) -> Faults:
    return cast("Faults", fake)


QUICK = {"pause": 0.0, "lasts": 0.0}


def test_every_kind_is_done_to_whoever_leads_or_follows_then_and_undone(cluster: Cluster, faults: FakeFaults) -> None:
    todo = [FaultStep(kind, number % 3, **QUICK) for number, kind in enumerate(sequence.KINDS)]
    ticks = iter(range(1000))
    done = list(sequence.carry_out(cluster, as_faults(faults), todo, Deadline.after(60), lambda: next(ticks)))
    assert [one.what for one in done] == [
        "partition: i-10 is cut off from i-9, i-11",
        "partition: i-9 no more reaches i-10, i-11",
        "partition: i-10, i-9 no more reaches i-11",
        "partition: i-10 is cut off from i-9",
        "kill consul on i-9",
        "kill consul on i-11, i-10, i-9",
        "stop consul on i-10",
        "freeze consul on i-9",
        "lose 30.0% of what i-11 gets from the cluster",
        "throttle what i-10 gets from the cluster to 20 kB/s",
    ]
    assert faults.lines == [line for one in done for line in (one.what, "undone")]
    assert [(one.start, one.there, one.undoing, one.end) for one in done[:2]] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_no_fault_begins_after_the_deadline(cluster: Cluster, faults: FakeFaults) -> None:
    def counted() -> Iterator[FaultStep]:
        while True:
            yield FaultStep("kill", 0, **QUICK)
            now[0] += 1.0

    now = [0.0]
    done = list(sequence.carry_out(cluster, as_faults(faults), counted(), Deadline(2.5, lambda: now[0]), lambda: 0))
    assert len(done) == 3


def test_servers_without_a_leader_are_told(
    cluster: Cluster, faults: FakeFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "LEADER_WITHIN", 0.01)
    cast("StoreHost", cluster.hosts[0]).leader = ""
    with pytest.raises(WaitTimeout, match="the servers to agree on a leader"):
        list(
            sequence.carry_out(
                cluster, as_faults(faults), [FaultStep("kill", 0, **QUICK)], Deadline.after(60), lambda: 0
            )
        )
    assert faults.lines == []


# -- the check


def check(cluster: Cluster, faults: FakeFaults, **how: Any) -> Any:
    given = {"seed": 42, "seconds": 0.2, "sequence": [FaultStep("kill", 0, pause=0.05, lasts=0.05)], **how}
    return check_kv(cluster, as_faults(faults), **given)


def test_a_right_store_passes_and_what_was_done_is_recorded(
    cluster: Cluster, faults: FakeFaults, tmp_path: Path
) -> None:
    told: list[str] = []
    outcome = check(cluster, faults, artifacts=tmp_path / "artifacts", progress=told.append)
    assert outcome.judgement.verdict == "ok"
    assert told[-1] == str(outcome)
    assert re.fullmatch(
        r"linearizable: \d+ operations on 3 keys in \d+\.\d s \(\d+/s\), 0\.0% of them unknown, 1 faults, seed 42",
        str(outcome),
    )
    assert outcome.rate == pytest.approx(len(outcome.operations) / outcome.seconds)
    assert outcome.folder.parent == tmp_path / "artifacts" / cluster.run_id
    assert len((outcome.folder / "history.jsonl").read_text().splitlines()) == len(outcome.operations)
    (fault,) = map(json.loads, (outcome.folder / "faults.jsonl").read_text().splitlines())
    assert (fault["what"], fault["step"]["kind"]) == ("kill consul on i-10", "kill")
    assert 0 < fault["start"] <= fault["there"] < fault["undoing"] <= fault["end"]
    assert not (outcome.folder / "violation.html").exists()
    assert cast("StoreHost", cluster.hosts[0]).store.entries == {}  # its keys are gone
    assert list((tmp_path / "run").iterdir()) == []


def test_one_that_is_wrong_fails_with_what_was_seen_and_how_to_replay_it(tmp_path: Path) -> None:
    cluster = made_cluster(Losing(), tmp_path / "run")
    with pytest.raises(CheckFailed) as caught:
        check(cluster, FakeFaults(cluster), artifacts=tmp_path / "artifacts", replay="pytest --this", seconds=0.5)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Consul KV is not linearizable with consistent reads: nothing explains what was seen of")
    assert re.fullmatch(r"- nomad-testkit/linearizability-[0-9a-f]{8}/0-\d", lines[2])
    assert re.match(r"    client \d+ at i-\d+, \d+\.\d{3} s to \d+\.\d{3} s: (get|put|delete)", lines[3])
    assert any(line.startswith("not linearizable: ") and line.endswith("1 faults, seed 42") for line in lines)
    assert any(line.endswith(": kill consul on i-10") for line in lines)
    (folder,) = (tmp_path / "artifacts" / cluster.run_id).iterdir()
    assert lines[-2:] == [f"History, faults, and a picture of a violation: {folder}", "To replay it: pytest --this"]
    assert sorted(path.name for path in folder.iterdir()) == ["faults.jsonl", "history.jsonl", "violation.html"]
    assert "kill consul on i-10" in (folder / "violation.html").read_text()


def test_reads_that_are_not_consistent_are_asked_for_as_such(cluster: Cluster, faults: FakeFaults) -> None:
    check(cluster, faults, reads="stale")
    asked = Counter(what for _, what in cast("StoreHost", cluster.hosts[0]).store.asked)
    assert asked["stale"] > asked["consistent"] == 3


def test_what_is_undecided_is_no_success(cluster: Cluster, faults: FakeFaults, monkeypatch: pytest.MonkeyPatch) -> None:
    undecided = Judgement("unknown", 3, 100, (), ("k/0-0",), 60.0)
    monkeypatch.setattr("nomad_testkit.faults.linearizability.check.judge", lambda *_, **__: undecided)
    with pytest.raises(CheckFailed, match="could not be decided for 1 of 3 keys within 60 s, so nothing is") as caught:
        check(cluster, faults)
    assert str(caught.value).endswith("\nTo replay it: --nomad-fault-seed 42 --nomad-fault-time 0.2")


def test_a_sequence_without_a_fault_proves_nothing(cluster: Cluster, faults: FakeFaults) -> None:
    with pytest.raises(CheckFailed, match="no fault was made; give more seconds, so nothing"):
        check(cluster, faults, seconds=1e-9)
    assert check(cluster, faults, sequence=()).faults == []


def test_writes_without_an_answer_prove_nothing(tmp_path: Path) -> None:
    class ReadOnly(MemoryStore):
        def write(self, key: str, value: bytes | None) -> None:
            raise AgentApiError("consul", "memory", 500, "leadership lost")

    cluster = made_cluster(ReadOnly(), tmp_path)
    told = r"no write of \d+ operations was acknowledged, so nothing is proven\nTo replay it: "
    with pytest.raises(CheckFailed, match=told):
        check(cluster, FakeFaults(cluster))


def test_a_fault_that_cannot_be_made_ends_the_clients_and_leaves_the_record(
    cluster: Cluster, faults: FakeFaults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(repairs: object) -> None:
        raise FaultError("no nft")

    monkeypatch.setitem(cast("Any", sequence.KINDS), "kill", lambda *_: Fault("kill consul", refuse))
    with pytest.raises(FaultError, match="no nft"):
        check(cluster, faults, artifacts=tmp_path)
    assert not [one for one in threading.enumerate() if one.name.startswith("nomad-testkit-kv")]
    (folder,) = (tmp_path / cluster.run_id).iterdir()
    assert (folder / "history.jsonl").read_text()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"seconds": 0}, "seconds: found 0; expected a number above 0"),
        ({"seconds": float("nan")}, "seconds: found nan"),
        ({"limit": 0}, "limit: found 0; expected a number above 0"),
        ({"reads": "linearizable"}, "reads: found 'linearizable'; expected one of consistent, default, stale"),
        (
            {"sequence": [FaultStep("flood", 0, **QUICK)]},
            r"kind='flood'.*expected a kind of fault that 3 servers have, one of partition,",
        ),
        ({"sequence": [FaultStep("kill", 3, **QUICK)]}, r"server=3.*expected 0, the leader, to 2"),
        ({"sequence": [FaultStep("kill", 0, pause=-1, lasts=0)]}, r"pause=-1.*expected seconds from 0"),
    ],
)
def test_bad_input_is_refused_at_once(cluster: Cluster, faults: FakeFaults, how: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check(cluster, faults, **how)
    assert faults.lines == []
    assert cast("StoreHost", cluster.hosts[0]).store.asked == []


def test_a_single_server_cannot_be_cut_off() -> None:
    with pytest.raises(
        UsageError, match="expected a kind of fault that 1 servers have, one of kill, kill all, stop, freeze"
    ):
        FaultStep("partition", 0, **QUICK).check(1)


# -- the fixtures


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        test_some="""
        import pytest

        @pytest.mark.parametrize("number", [1, 2])
        def test_fails(nomad_fault_seed, nomad_fault_replay, nomad_settings, number):
            assert nomad_settings.fault_seed in (None, nomad_fault_seed)
            raise AssertionError(f"seed {nomad_fault_seed}, to replay: {nomad_fault_replay}")
        """
    )
    return pytester


@pytest.mark.parametrize("args", [(), ("-n", "1")])
def test_a_fresh_seed_is_shown_and_its_command_replays_it(project: pytest.Pytester, args: tuple[str, ...]) -> None:
    result = project.runpytest_subprocess("test_some.py", *args, "--nomad-fault-time", "5", "-k", "1")
    text = str(result.stdout)
    (seed,) = set(re.findall(r"the faults have the seed (\d+); --nomad-fault-seed \1 replays them", text))
    (replay,) = set(re.findall(r"^E +AssertionError: seed \d+, to replay: (.*)$", text, re.MULTILINE))
    words = shlex.split(replay)
    assert (words[0], "test_some.py" in words) == ("pytest", False)
    test = f"{project.path / 'test_some.py'}::test_fails[1]"
    assert words[-5:] == [test, "--nomad-fault-seed", seed, "--nomad-fault-time", "5"]
    if args:
        return
    again = str(project.runpytest_subprocess(*words[1:]).stdout)
    assert f"AssertionError: seed {seed}, to replay: " in again
    assert "test_fails[2]" not in again
    assert "the faults have the seed" not in again


def test_a_seed_that_is_none_is_refused(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--nomad-fault-seed", "-1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*option --nomad-fault-seed: found '-1', expected a whole number, 0 or more"])
