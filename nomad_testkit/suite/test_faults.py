"""A cluster that is tested the way it will fail: agents, instances and the network, and whether it heals.

    pytest -m faults

One cluster of each topology is deployed for all of these tests, which no others see, and it has to be healthy before
each of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nomad_testkit import Cluster, Deadline, Example, Host, Settings, deployed
from nomad_testkit.checks import (
    AGENTS,
    AgentName,
    AllocationsRunning,
    DeploymentSucceeds,
    Leader,
    LeaderReelected,
    NodeGone,
    NodesReady,
    RefusesWrites,
    RunsElsewhere,
    SameNodes,
    ServiceHealthy,
    UnitsActive,
    leader_of,
    node_ids,
)
from nomad_testkit.errors import CheckFailed, FaultError, UsageError
from nomad_testkit.faults import Fault, Faults, Workload, watching_leaders, writing
from nomad_testkit.operations import require_healthy

if TYPE_CHECKING:
    from nomad_testkit.targets import Target

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.nomad_topology("colocated", "separate"),
    pytest.mark.usefixtures("nomad_topology", "healthy"),
]

CLIENTS = 3
PEER_RETURNS = "1s"
"""Until a server that came back has its vote again; by default both agents let it wait for 10 s."""
CONSUL_HTTP = 8500

Report = Callable[[str, object], None]


@pytest.fixture(scope="module")
def nomad_cluster(nomad_settings: Settings, nomad_example: Example, nomad_target: Target) -> Iterator[Cluster]:
    """A cluster that only these tests use; with as many clients as they need, unless the user says how many."""
    settings, sizes = nomad_settings, nomad_example.size_variables("nomad_clients")
    if settings.clients is None and len(sizes) == 1 and None not in sizes:
        settings = replace(settings, clients=CLIENTS)
    example = nomad_example.with_settings(settings)
    with deployed(settings, example, target=nomad_target, progress=log.info) as cluster:
        for client in (cluster.consul, cluster.nomad):
            path = "/v1/operator/autopilot/configuration"
            client.put(path, {**client.get(path), "ServerStabilizationTime": PEER_RETURNS})
        yield cluster


@pytest.fixture
def healthy(nomad_cluster: Cluster, heal: float) -> None:
    """Wait until nothing is left of what the test before did."""
    require_health(nomad_cluster, heal)


@pytest.fixture(name="heal")
def _heal(nomad_settings: Settings) -> float:
    return nomad_settings.heal_timeout


@pytest.fixture(name="record")
def _record(request: pytest.FixtureRequest) -> Report:
    """Give what adds a figure to a test's report; record_property warns where JUnit XML is of its newer family."""
    return lambda name, value: request.node.user_properties.append((name, value))


@pytest.fixture(name="workload")
def _workload(nomad_cluster: Cluster, healthy: None, heal: float, record: Report) -> Iterator[Workload]:
    """Registers that are written all the time; at the end, none of what was acknowledged may be lost."""
    with writing(nomad_cluster) as workload:
        yield workload
        workload.verify(heal)
    record("workload", str(workload))
    log.info("%s", workload)


def require_health(cluster: Cluster, within: float) -> None:
    require_healthy(cluster, UnitsActive(), within=within)


@pytest.fixture(name="require_reelected")
def _require_reelected(nomad_cluster: Cluster, nomad_settings: Settings, record: Report) -> Callable[..., None]:
    """Give what demands a new leader in time, and reports how long it took."""

    def require(fault: Fault, agent: AgentName, old: Host, *without: Host) -> None:
        deadline = Deadline.after(nomad_settings.election_timeout)
        nomad_cluster.require(LeaderReelected(agent, old, without), within=deadline)
        record(f"{agent}_election_seconds", round(fault.seconds, 1))
        log.info("%s: %s has a new leader after %.1f s", fault.what, agent, fault.seconds)

    return require


def reaches(one: Host, other: Host, port: int = CONSUL_HTTP) -> bool:
    """Whether a host gets an answer of the Consul on another one."""
    url = f"http://{other.private_ip}:{port}/v1/status/leader"
    return one.run(f"curl -s --connect-timeout 1 -m 5 -o /dev/null {url}", check=False).status == 0


def test_killed_leaders_are_replaced_and_a_deployment_in_progress_goes_on(
    nomad_cluster: Cluster,
    nomad_faults: Faults,
    workload: Workload,
    heal: float,
    require_reelected: Callable[..., None],
) -> None:
    before = node_ids(nomad_cluster)
    old = {agent: leader_of(nomad_cluster, agent) for agent in AGENTS}
    clients = len(nomad_cluster.clients)
    with nomad_cluster.submitted("web.nomad.hcl", count=clients, min_healthy_time="8s") as job:
        nomad_cluster.require(AllocationsRunning(job), within=heal)
        (deployment,) = nomad_cluster.nomad.job_deployments(job.id)
        assert deployment["Status"] == "running"
        with nomad_faults.kill("nomad", old["nomad"]) as nomad, nomad_faults.kill("consul", old["consul"]) as consul:
            require_reelected(nomad, "nomad", old["nomad"])
            require_reelected(consul, "consul", old["consul"])
            workload.await_writes(heal)
        nomad_cluster.require(
            DeploymentSucceeds(job, deployment["ID"]),
            AllocationsRunning(job),
            ServiceHealthy(job.name, clients),
            SameNodes(before, tuple(old.values())),
            within=heal,
        )


def test_a_frozen_leader_is_replaced_and_never_leads_beside_the_new_one(
    nomad_cluster: Cluster,
    nomad_faults: Faults,
    workload: Workload,
    heal: float,
    require_reelected: Callable[..., None],
) -> None:
    old = {agent: leader_of(nomad_cluster, agent) for agent in AGENTS}
    with watching_leaders(nomad_cluster):
        with (
            nomad_faults.freeze("consul", old["consul"]) as consul,
            nomad_faults.freeze("nomad", old["nomad"]) as nomad,
        ):
            require_reelected(consul, "consul", old["consul"])
            require_reelected(nomad, "nomad", old["nomad"])
            workload.await_writes(heal)
        require_health(nomad_cluster, heal)


def test_a_minority_refuses_writes_and_has_no_leader(
    nomad_cluster: Cluster,
    nomad_faults: Faults,
    workload: Workload,
    heal: float,
    require_reelected: Callable[..., None],
) -> None:
    old = {agent: leader_of(nomad_cluster, agent) for agent in AGENTS}
    # Colocated, both leaders together could be the majority of three servers.
    apart = old["nomad"] not in nomad_cluster.consul_servers
    minority = (old["consul"], old["nomad"]) if apart else (old["consul"],)
    with watching_leaders(nomad_cluster), nomad_faults.isolate(*minority) as fault:
        require_reelected(fault, "consul", old["consul"], *minority)
        if old["nomad"] in minority:
            require_reelected(fault, "nomad", old["nomad"], *minority)
        nomad_cluster.require(
            RefusesWrites("consul", (old["consul"],)), RefusesWrites("nomad", (minority[-1],)), within=heal
        )
        workload.await_writes(heal)


def test_all_servers_are_rebooted_at_once(
    nomad_cluster: Cluster, nomad_faults: Faults, workload: Workload, heal: float
) -> None:
    before = node_ids(nomad_cluster)
    servers = dict.fromkeys([*nomad_cluster.consul_servers, *nomad_cluster.nomad_servers])
    with nomad_faults.reboot_instance(*servers):
        pass
    nomad_cluster.require(SameNodes(before, tuple(servers)), Leader(), within=heal)
    workload.await_writes(heal)


def test_lost_clients_work_is_done_elsewhere_and_they_are_replaced(
    nomad_cluster: Cluster, nomad_faults: Faults, heal: float
) -> None:
    left, lost, *_ = nomad_cluster.clients
    names = (left.instance_id, lost.instance_id)
    with nomad_cluster.submitted("web.nomad.hcl", count=CLIENTS) as job:
        nomad_cluster.require(AllocationsRunning(job), ServiceHealthy(job.name, CLIENTS), within=heal)
        with nomad_faults.terminate_instance(lost, power_cut=True), nomad_faults.terminate_instance(left):
            nomad_cluster.require(RunsElsewhere(job, names), NodeGone(left.instance_id), within=heal)
            # Nobody tells Consul that a host without power has left. The check says so, and what to do.
            with pytest.raises(CheckFailed, match=f"consul force-leave -prune {lost.instance_id}"):
                nomad_cluster.require(NodeGone(lost.instance_id), within=1)
            nomad_cluster.consul.force_leave(lost.instance_id)
            nomad_cluster.require(NodeGone(lost.instance_id), ServiceHealthy(job.name, CLIENTS), within=heal)
        assert not {host.instance_id for host in nomad_cluster.clients} & set(names)
        nomad_cluster.require(NodesReady(CLIENTS), within=heal)


def test_terminated_servers_are_replaced_and_leave_no_stale_peer(
    nomad_cluster: Cluster,
    nomad_faults: Faults,
    workload: Workload,
    heal: float,
    require_reelected: Callable[..., None],
) -> None:
    old = leader_of(nomad_cluster, "consul")
    with watching_leaders(nomad_cluster), nomad_faults.terminate_instance(old, power_cut=True) as fault:
        require_reelected(fault, "consul", old)
    assert old not in nomad_cluster.hosts
    require_health(nomad_cluster, heal)
    nomad_cluster.require(NodeGone(old.instance_id), within=heal)
    workload.await_writes(heal)


def test_a_stopped_client_comes_back_as_the_same_node_or_is_replaced(
    nomad_cluster: Cluster, nomad_faults: Faults, heal: float
) -> None:
    back, away = nomad_cluster.clients[:2]
    before = node_ids(nomad_cluster)
    with nomad_faults.stop_instance(back):
        nomad_cluster.require(NodeGone(back.instance_id), within=heal)
    with nomad_faults.stop_instance(away, replaced=True):
        pass
    assert (back in nomad_cluster.hosts, away in nomad_cluster.hosts) == (True, False)
    nomad_cluster.require(SameNodes(before, (back,)), NodesReady(len(nomad_cluster.clients)), within=heal)


def test_the_network_fails_as_it_is_told_and_ssh_goes_on(nomad_cluster: Cluster, nomad_faults: Faults) -> None:
    server, another = nomad_cluster.consul_servers[:2]
    client, other = nomad_cluster.clients[:2]
    assert reaches(client, server)
    with nomad_faults.partition([client], [server]):
        assert (reaches(client, server), reaches(client, another), reaches(other, server)) == (False, True, True)
    with nomad_faults.partition([client], [server], one_way=True):
        assert not reaches(client, server)
        assert "fault" not in client.run("nft list tables", sudo=True).stdout  # only what arrives at the server
    with nomad_faults.block_port(CONSUL_HTTP, server), nomad_faults.partition([other], [another]):
        assert (reaches(client, server), reaches(server, server), reaches(other, another)) == (False, True, False)
        assert reaches(client, another)
    with nomad_faults.lose(0.3, server):
        answered = int(client.run(ASK_DNS.format(address=server.private_ip), timeout=120).stdout)
        assert 30 < answered < 95  # of 100, when 70 are to be expected
    assert nomad_cluster.consul.put_key("nomad-testkit/large", "x" * LARGE)
    download = f"curl -sf -m 60 -o /dev/null -w '%{{speed_download}}' '{_large(server)}'"
    assert float(client.run(download).stdout) > 10 * SLOW * 1024
    with nomad_faults.throttle(SLOW, client):
        assert float(client.run(download).stdout) < 2 * SLOW * 1024
    assert reaches(client, server)
    for host in (server, another, client, other):
        assert "fault" not in host.run("nft list tables", sudo=True).stdout


LARGE = 400_000
SLOW = 50
# One question a socket, as a resolver does it; those that get no answer are counted by who is left.
ASK_DNS = """python3 - <<'EOF'
import socket
question = bytes.fromhex("000101000001000000000000") + b"\\x06consul\\x07service\\x06consul\\0" + bytes([0, 1, 0, 1])
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
for one in sockets:
    one.settimeout(2)
    one.sendto(question, ("{address}", 8600))
answered = 0
for one in sockets:
    try:
        answered += bool(one.recv(2000))
    except TimeoutError:
        [each.settimeout(0.001) for each in sockets]
print(answered)
EOF"""


def _large(host: Host) -> str:
    return f"http://{host.private_ip}:{CONSUL_HTTP}/v1/kv/nomad-testkit/large?raw"


DELAY = 0.3


def round_trip(one: Host, other: Host) -> float:
    """Seconds until a connection of a host to another one is made, the least of several."""
    url = f"http://{other.private_ip}:{CONSUL_HTTP}/v1/status/leader"
    connect = f"curl -s -m 30 -o /dev/null -w '%{{time_connect}}\\n' {url}"
    return min(map(float, one.run(f"for i in 1 2 3; do {connect}; done", timeout=240).stdout.split()))


def test_what_a_host_sends_is_delayed_and_what_others_send_is_not(nomad_cluster: Cluster, nomad_faults: Faults) -> None:
    server, (host, other) = nomad_cluster.consul_servers[0], nomad_cluster.clients[:2]
    before = {one: one.run(DELAYED, sudo=True, check=False).stdout for one in (host, other)}
    usual = round_trip(host, server)
    with nomad_faults.delay(DELAY, host):
        slow = round_trip(host, server)
        assert slow >= usual + 0.9 * DELAY
        # The way back of what a delayed host answers is as slow as its own way there.
        assert round_trip(server, host) >= 0.9 * DELAY
        assert round_trip(other, server) < slow / 2
        assert other.run(DELAYED, sudo=True, check=False).stdout == before[other]
        with pytest.raises(FaultError, match="delays packets already"), nomad_faults.delay(1, host):
            pytest.fail("it must not come here")
        assert round_trip(host, server) >= 0.9 * DELAY
    assert round_trip(host, server) < slow / 2
    assert host.run(DELAYED, sudo=True, check=False).stdout == before[host]


# All that a host may have of a delay.
DELAYED = """
tc qdisc; nft list tables; ip rule; ip -o link; ls -d /run/nomad-testkit*; systemctl list-units --all 'nomad-testkit*'
"""


def test_a_disk_is_full_for_a_while(nomad_cluster: Cluster, nomad_faults: Faults) -> None:
    host = nomad_cluster.clients[0]
    host.run("mkdir -p /mnt/small && mount -t tmpfs -o size=16m small /mnt/small", sudo=True)
    try:
        with nomad_faults.fill_disk(host, "/mnt/small"):
            written = host.run("sh -c 'echo more > /mnt/small/file'", sudo=True, check=False)
            assert (written.status != 0, host.run("stat -f -c %a /mnt/small").stdout) == (True, "0\n")
        assert host.run("ls /mnt/small", sudo=True).stdout in ("", "file\n")
        assert host.run("stat -f -c %a /mnt/small").stdout != "0\n"
    finally:
        host.run("umount /mnt/small", sudo=True)
    with pytest.raises(FaultError, match=r"are free in /, and at most \d+ MiB may be taken"):
        nomad_faults.fill_disk(host, most=1).__enter__()


def test_a_fault_is_undone_when_the_test_fails(nomad_cluster: Cluster, nomad_faults: Faults) -> None:
    host = nomad_cluster.clients[0]

    def failing() -> None:
        with nomad_faults.stop("nomad", host):
            assert host.unit_state("nomad").active == "active", "it fails here"

    with pytest.raises(AssertionError, match="it fails here"):
        failing()
    assert host.unit_state("nomad").active in ("active", "activating")
    # One that was never left by its block is undone by the fixture.
    fault = nomad_faults.block_port(1234, host)
    fault.__enter__()
    nomad_faults.undo()
    assert "fault" not in host.run("nft list tables", sudo=True).stdout


def test_bad_input_is_refused_and_nothing_is_touched(nomad_cluster: Cluster, nomad_faults: Faults) -> None:
    one, other, *_ = nomad_cluster.clients
    stranger = Host(
        replace(one.instance, instance_id="i-00000000000000000"),
        address="192.0.2.1",
        ssh_user="x",
        key_path=one.ssh.key_path,
    )
    wrong: list[Callable[[], Fault]] = [
        lambda: nomad_faults.kill("nomad", stranger),
        lambda: nomad_faults.terminate_instance(one, stranger),
        lambda: nomad_faults.partition([one], [stranger]),
    ]
    for make in wrong:
        with pytest.raises(UsageError, match=f"i-00000000000000000.*not of cluster {nomad_cluster.run_id}"):
            make()
    with pytest.raises(UsageError, match=f"host on both sides: {one.instance_id}"):
        nomad_faults.partition([one, other], [one])
    with pytest.raises(UsageError, match="port 22 is that of SSH"):
        nomad_faults.block_port(22, one)
    with pytest.raises(FaultError, match="only an active unit"), nomad_faults.stop("nomad", one):
        nomad_faults.kill("nomad", one).__enter__()
    for host in nomad_cluster.hosts:
        assert "fault" not in host.run("nft list tables", sudo=True).stdout


def test_a_clock_is_shifted_where_it_is_the_hosts_own(
    nomad_cluster: Cluster, nomad_faults: Faults, nomad_settings: Settings
) -> None:
    host = nomad_cluster.clients[0]
    if nomad_settings.target == "embedded":
        with pytest.raises(FaultError, match=r"has no clock of its own: it is a container \(systemd-nspawn\)"):
            nomad_faults.shift_clock(60, host).__enter__()
        return

    def ahead() -> float:
        return float(host.run("date +%s").stdout) - time.time()

    before = ahead()
    with nomad_faults.shift_clock(60, host):
        assert ahead() - before == pytest.approx(60, abs=10)
    assert ahead() == pytest.approx(before, abs=10)
