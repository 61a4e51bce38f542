"""Every check fails on a cluster that is broken in the way it looks for, and says where and how."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from nomad_testkit import Cluster, Example, Host
from nomad_testkit.checks import (
    AdvertisedAddresses,
    AllocationsRunning,
    AutopilotHealthy,
    BatchCompleted,
    Check,
    HealthyServers,
    Leader,
    NodesReady,
    NoFailedMembers,
    NotSplit,
    RaftPeers,
    Registered,
    ServiceGone,
    ServiceHealthy,
    ServiceResolves,
    Spread,
    UnitsActive,
)
from nomad_testkit.cli.check import CHECKS, judge
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.errors import CheckFailed
from nomad_testkit.faults import Faults
from nomad_testkit.operations import require_healthy
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

SERVERS, CLIENTS = 3, 2
HEALTHY: tuple[Check[Any], ...] = (
    RaftPeers(SERVERS),
    NotSplit(),
    Leader(),
    AutopilotHealthy(),
    HealthyServers(),
    NoFailedMembers(),
    UnitsActive(),
    NodesReady(CLIENTS),
    Registered("consul", SERVERS),
    Registered("nomad", SERVERS),
    Registered("nomad-client", CLIENTS),
)


@pytest.fixture(scope="module")
def cluster(nomad_settings: Settings, nomad_target: Target) -> Iterator[Cluster]:
    example = Example.load("nomad-consul-colocated-cluster").replace(num_servers=SERVERS, num_clients=CLIENTS)
    with deployed(nomad_settings, example, target=nomad_target, progress=lambda line: None) as made:
        yield made


@pytest.fixture(autouse=True)
def healthy(cluster: Cluster) -> Iterator[None]:
    """Begin and end every test with a healthy cluster: what one breaks must not fail another."""
    cluster.require(*HEALTHY, within=60)
    yield
    cluster.require(*HEALTHY, within=60)


def verdict_of(cluster: Cluster, check: Check[Any]) -> str:
    """Wait until a check fails, and give what it says then."""

    def probe() -> Ok[None] | Pending:
        return Pending("it holds") if isinstance(check.verdict(cluster), Ok) else Ok(None)

    wait_until(f"{check} to fail", probe, deadline=Deadline.after(60))
    with pytest.raises(CheckFailed) as caught:
        cluster.require(check, within=0)
    return str(caught.value)


@contextmanager
def stopped(host: Host, unit: str) -> Iterator[None]:
    """Kill an agent the hard way, and start it again at the end."""
    host.run(f"systemctl kill --signal=KILL {unit} && systemctl stop {unit}", sudo=True)
    try:
        yield
    finally:
        host.run(f"systemctl reset-failed {unit}; systemctl start {unit}", sudo=True)


def test_a_nomad_server_is_dead(cluster: Cluster) -> None:
    victim = next(host for host in cluster.servers if not cluster.nomad.leader().startswith(host.private_ip))
    with stopped(victim, "nomad"):
        for check in (RaftPeers(SERVERS), Leader(), HealthyServers(), NoFailedMembers(), UnitsActive(), NotSplit()):
            assert victim.instance_id in verdict_of(cluster, check)
        assert victim.instance_id in verdict_of(cluster, Registered("nomad", SERVERS))


def test_a_consul_server_is_dead(cluster: Cluster) -> None:
    victim = next(host for host in cluster.servers if not cluster.consul.leader().startswith(host.private_ip))
    with stopped(victim, "consul"):
        for check in (AutopilotHealthy(), RaftPeers(SERVERS), Registered("consul", SERVERS)):
            assert victim.instance_id in verdict_of(cluster, check)


def test_a_consul_client_is_dead(cluster: Cluster) -> None:
    victim = cluster.clients[0]
    with stopped(victim, "consul"):
        for check in (NoFailedMembers(), Registered("nomad-client", CLIENTS)):
            assert victim.instance_id in verdict_of(cluster, check)


def test_a_client_takes_no_work(cluster: Cluster) -> None:
    victim = cluster.clients[0]
    victim.run("nomad node eligibility -self -disable")
    try:
        said = verdict_of(cluster, NodesReady(CLIENTS))
        assert victim.instance_id in said
        assert "ineligible" in said
    finally:
        victim.run("nomad node eligibility -self -enable")


def test_counts_that_are_wrong(cluster: Cluster) -> None:
    assert "5" in verdict_of(cluster, RaftPeers(5))
    assert "7" in verdict_of(cluster, NodesReady(7))
    assert "no-such-service" in verdict_of(cluster, Registered("no-such-service", 1))


def test_checks_of_jobs(cluster: Cluster) -> None:
    with cluster.submitted("web.nomad.hcl", count=CLIENTS) as job:
        cluster.require(AllocationsRunning(job), ServiceHealthy(job.name, CLIENTS), within=60)
        assert "2 clients" in verdict_of(cluster, Spread(job, clients=CLIENTS + 1))
        assert job.name in verdict_of(cluster, ServiceHealthy(job.name, CLIENTS + 1))
        assert "NXDOMAIN" in verdict_of(cluster, ServiceResolves("no-such-service"))
        assert job.name in verdict_of(cluster, ServiceGone(job.name))
        victim = cluster.clients[0]
        with stopped(victim, "nomad"):
            # Its tasks run on; it is Nomad that does not know of them any more.
            assert "nomad" in verdict_of(cluster, UnitsActive())
    with cluster.submitted("batch.nomad.hcl", message="hello") as job:
        cluster.require(BatchCompleted(job, output="hello"), within=60)
        assert "goodbye" in verdict_of(cluster, BatchCompleted(job, output="goodbye"))


FLAPPING = "nomad-testkit-flapping"
NO_LIMIT = "/run/systemd/system/nomad.service.d/no-limit.conf"
HEAL = 240.0


@contextmanager
def flapping(host: Host) -> Iterator[None]:
    """Let Nomad end every few seconds, and systemd start it again each time, however often it is."""
    unlimited = f"mkdir -p {NO_LIMIT.rpartition('/')[0]} && printf '[Unit]\\nStartLimitIntervalSec=0\\n' > {NO_LIMIT}"
    loop = "while :; do systemctl kill --signal=KILL nomad; sleep 4; done"
    begin = f"{unlimited} && systemctl daemon-reload && systemd-run --unit={FLAPPING} sh -c '{loop}'"
    host.run(f"sh -c {shlex.quote(begin)}", sudo=True)
    try:
        yield
    finally:
        end = f"systemctl stop {FLAPPING}; rm -f {NO_LIMIT}; systemctl daemon-reload; systemctl start nomad"
        host.run(f"sh -c {shlex.quote(end)}", sudo=True)


def test_a_client_whose_nomad_is_started_again_and_again(cluster: Cluster) -> None:
    victim = cluster.clients[0]
    check, said = UnitsActive(), list[str]()
    before = victim.unit_state("nomad").restarts

    def probe() -> Ok[None] | Pending:
        verdict = check.verdict(cluster)
        assert isinstance(verdict, Pending), verdict
        said.append(verdict.seen)
        restarts = victim.unit_state("nomad").restarts - before
        return Ok(None) if restarts >= 4 else Pending(f"{restarts} restarts")

    def began() -> Ok[None] | Pending:
        return Ok(None) if victim.unit_state("nomad").restarts > before else Pending("no restart yet")

    with flapping(victim):
        wait_until("the first restart of Nomad", began, deadline=Deadline.after(HEAL))
        wait_until("Nomad to be started again 4 times", probe, deadline=Deadline.after(HEAL))
    assert all(victim.instance_id in one for one in said)
    assert any("restarted" in one and "times" in one for one in said)


def test_servers_that_are_cut_off_from_each_other_are_not_believed(cluster: Cluster) -> None:
    with cluster.submitted("web.nomad.hcl", count=CLIENTS) as job:
        stale: tuple[Check[Any], ...] = (
            NodesReady(CLIENTS),
            Registered("nomad-client", CLIENTS),
            AllocationsRunning(job),
            ServiceHealthy(job.name, CLIENTS),
            ServiceResolves(job.name),
        )
        cluster.require(*stale, within=HEAL)
        with Faults(cluster) as faults, ExitStack() as stack:
            for server in cluster.servers:
                stack.enter_context(faults.isolate(server))
            stack.enter_context(faults.stop_instance(*cluster.clients))

            def probe() -> Ok[None] | Pending:
                seen = {check: check.verdict(cluster) for check in (*stale, ServiceGone(job.name))}
                believed = [f"{check}: {one}" for check, one in seen.items() if "knows no leader" not in str(one)]
                return Pending("; ".join(believed)) if believed else Ok(None)

            wait_until("no server to be believed", probe, deadline=Deadline.after(HEAL))
        require_healthy(cluster, within=HEAL)


def test_no_check_holds_while_every_server_is_stopped(cluster: Cluster) -> None:
    with Faults(cluster) as faults, faults.stop_instance(*cluster.servers):
        judged = judge(cluster, tuple(CHECKS), 0)
        assert [one.name for one in judged if one.word == "ok"] == []
        for one in judged:
            assert f"0 of {SERVERS} hosts of servers run" in one.seen
            assert one.seen.count("is stopped") == SERVERS
    cluster.refresh()
    require_healthy(cluster, within=HEAL)


def test_a_client_whose_nomad_advertises_an_address_that_is_not_its_own(cluster: Cluster) -> None:
    victim, other = cluster.clients
    path, check = "/opt/nomad/config/zz-advertised.hcl", AdvertisedAddresses()
    cluster.require(check, within=HEAL)
    try:
        # Each with a restart, after which the address is another one than before.
        for address in ("127.0.0.1", other.private_ip):
            text = f'advertise {{ http = "{address}" }}'
            victim.run(f"sh -c {shlex.quote(f'echo {shlex.quote(text)} > {path}; chmod 644 {path}')}", sudo=True)
            victim.run("systemctl restart nomad", sudo=True)

            def probe(wanted: str = f"has {address} for HTTP instead of {victim.private_ip}") -> Ok[None] | Pending:
                verdict = check.verdict(cluster)
                told = isinstance(verdict, Pending) and wanted in verdict.seen and victim.instance_id in verdict.seen
                return Ok(None) if told else Pending(str(verdict))

            wait_until(f"{address} to be told", probe, deadline=Deadline.after(HEAL))
    finally:
        victim.run(f"sh -c 'rm -f {path}; systemctl restart nomad'", sudo=True)
    cluster.require(check, within=HEAL)
