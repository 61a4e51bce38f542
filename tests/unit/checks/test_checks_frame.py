"""What holds for every check, whoever writes it: no answer is no verdict, and its arguments are checked."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from recorded_cluster import RecordedCluster, recorded
from verdicts import pending

import nomad_testkit.checks
from nomad_testkit.checks import (
    AllocationsRunning,
    Check,
    ClusterView,
    Leader,
    NodesReady,
    RaftPeers,
    Registered,
    RunsVersion,
    ServiceResolves,
    Spread,
    UnitsActive,
    Verdict,
    require,
)
from nomad_testkit.checks.healing import LeaderReelected, RefusesWrites, RunsElsewhere
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.jobs import Job
from nomad_testkit.errors import UsageError
from nomad_testkit.examples.example import Roles
from nomad_testkit.modules.network import Instance
from nomad_testkit.modules.steps import GROUP_TAG
from nomad_testkit.wait import Deadline, Ok, Pending

SPEC = {"ID": "web-1", "Name": "web-1", "Datacenters": ["dc1"], "TaskGroups": [{"Name": "web", "Count": 1}]}
JOB = Job(cast("Any", None), SPEC)
INSTANCE = Instance("i-1", "servers", "running", "10.0.0.1", "10.0.0.1", "us-east-1a", "ami-1")
HOST = Host(INSTANCE, address="127.0.0.1", ssh_user="admin", key_path=Path("no-key"))
# By a field's name, or else its type: an argument that fits.
VALUES: Mapping[str, Any] = {
    "count": 1, "clients": 1, "agents": ("consul",), "agent": "consul", "service": "web", "job": JOB, "old": HOST,
    "minority": (HOST,), "node": "i-1", "lost": ("i-1",), "hosts": (HOST,), "deployment": "d1", "version": "1.6.1",
    "before": {"consul": {"i-1": "x"}}, "units": ("nomad",),
}  # fmt: skip


def every_check() -> Iterator[type[Check[Any]]]:
    """Walk all checks that there are in the package, wherever they are defined."""
    for module in pkgutil.iter_modules(nomad_testkit.checks.__path__, "nomad_testkit.checks."):
        importlib.import_module(module.name)
    left: list[type[Check[Any]]] = list(Check.__subclasses__())
    while left:
        one = left.pop()
        left += one.__subclasses__()
        if one.__module__.startswith("nomad_testkit."):
            yield one


def made(kind: type[Check[Any]]) -> Check[Any]:
    names = [one.name for one in fields(cast("Any", kind)) if one.name not in ("without", "output")]
    return kind(**{name: VALUES[name] for name in names})


@pytest.mark.parametrize("kind", list(every_check()), ids=lambda kind: kind.__name__)
def test_no_check_holds_where_there_is_no_host(kind: type[Check[Any]]) -> None:
    check = made(kind) if kind is not RunsVersion else RunsVersion("nomad", "1.6.1")
    assert not isinstance(check.verdict(RecordedCluster([], [], {})), Ok)


def test_the_walk_finds_them_all() -> None:
    assert {NodesReady, LeaderReelected, RunsElsewhere, UnitsActive} <= set(every_check())


@dataclass(frozen=True)
class Sees(Check[str]):
    """Says that it saw something, whatever the cluster is like."""

    verdicts: list[Verdict] = field(repr=False, hash=False)
    wanted = "anything"

    def observe(self, cluster: ClusterView) -> str:
        return ""

    def judge(self, observed: str) -> Verdict:
        return self.verdicts[0]


class SeesTheLost(Sees):
    survives_lost_hosts = True


def test_no_check_holds_while_hosts_are_missing_but_one_about_lost_hosts() -> None:
    short = replace(recorded("healthy"), missing_hosts=["2 of 3 hosts of servers run, i-9 is stopped"])
    assert Sees([Ok("fine")]).verdict(short) == Pending("2 of 3 hosts of servers run, i-9 is stopped")
    assert Sees([Pending("no")]).verdict(short) == Pending("2 of 3 hosts of servers run, i-9 is stopped; no")
    assert SeesTheLost([Ok("fine")]).verdict(short) == Ok("fine")


@dataclass
class Target:
    """A target that can only be asked for its instances, which are in one state each."""

    states: Mapping[str, str]

    def client(self, service: str) -> Any:
        return SimpleNamespace(get_paginator=lambda name: self)

    def paginate(self, Filters: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        tags = [{"Key": GROUP_TAG, "Value": "servers"}]
        facts = [
            {"InstanceId": name, "State": {"Name": state}, "Tags": tags, "PrivateIpAddress": "10.0.0.1"}
            for name, state in self.states.items()
            if state in Filters[1]["Values"]
        ]
        return [{"Reservations": [{"Instances": facts}]}]

    def address(self, instance: Instance) -> str:
        return instance.private_ip


def test_stopped_hosts_are_missed_and_a_group_of_another_size_is_not() -> None:
    instances = {"i-1": "running", "i-2": "stopped"}
    roles = Roles(consul_servers=("servers",), nomad_servers=("servers",), nomad_clients=())
    target = cast("Any", Target(instances))
    saved: list[int] = []
    cluster = Cluster(
        "nt-20260101-abcdef",
        target,
        [HOST],
        roles,
        "admin",
        Path("key"),
        sizes={"servers": 2},
        save=lambda changed: saved.append(changed.wanted(["servers"])),
    )
    cluster.refresh()
    assert list(cluster.missing_hosts) == ["1 of 2 hosts of servers run, i-2 is stopped"]
    instances["i-1"] = "stopped"
    cluster.refresh()
    assert list(cluster.missing_hosts) == ["0 of 2 hosts of servers run, i-1 is stopped, i-2 is stopped"]
    assert Leader().verdict(cluster) == pending("0 of 2 hosts of servers run")
    cluster.resize("servers", 0)
    assert (list(cluster.missing_hosts), saved) == ([], [0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NodesReady(cast("Any", "1")), "NodesReady(count='1'): expected an integer, found the string '1'"),
        (lambda: NodesReady(True), "NodesReady(count=True): expected an integer, found the boolean True"),
        (lambda: NodesReady(-1), "NodesReady(count=-1): expected an integer of 0 or more, found -1"),
        (lambda: Registered("", 1), "Registered(service=''): expected at least one, found it empty"),
        (lambda: ServiceResolves(cast("Any", JOB)), "ServiceResolves(service=<Job web-1>): expected a string"),
        (lambda: RaftPeers(3, cast("Any", ("nomda",))), "found the string 'nomda'; did you mean nomad?"),
        (lambda: RaftPeers(3, cast("Any", "consul")), "RaftPeers(agents='consul'): expected a tuple, found the string"),
        (lambda: RaftPeers(3, ()), "RaftPeers(agents=()): expected at least one, found it empty"),
        (lambda: AllocationsRunning(cast("Any", "web")), "(job='web'): expected a Job, found the string"),
        (lambda: Spread(JOB, cast("Any", 1.5)), "Spread(clients=1.5): expected an integer, found the number 1.5"),
        (lambda: RefusesWrites("consul", ()), "RefusesWrites(minority=()): expected at least one"),
        (lambda: RunsElsewhere(JOB, cast("Any", (HOST,))), "expected a string, found the Host"),
        (lambda: LeaderReelected(cast("Any", "vault"), HOST), "expected 'consul' or 'nomad', found the string 'vault'"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        make()
    assert message in str(refused.value)


def test_a_list_becomes_a_tuple() -> None:
    assert hash(RaftPeers(3, cast("Any", ["consul"]))) == hash(RaftPeers(3, ("consul",)))


@pytest.mark.parametrize(
    ("given", "within", "message"),
    [
        (NodesReady, 1, "require(NodesReady): expected a check, found its class; write NodesReady(...)"),
        ("nodes", 1, "require('nodes'): expected a check such as NodesReady(3), found str"),
        (NodesReady(1), -1, "require(within=-1): expected seconds, 0 or more, or a Deadline"),
        (NodesReady(1), "60", "require(within='60'): expected seconds"),
        (NodesReady(1), float("nan"), "require(within=nan): expected seconds"),
    ],
)
def test_require_refuses_what_is_no_check_and_no_time(given: Any, within: Any, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        require(recorded("healthy"), given, within=within)
    assert message in str(refused.value)


def test_require_takes_a_deadline() -> None:
    require(recorded("healthy"), Sees([Ok("x")]), within=Deadline.after(5))
