"""Faults of a process that was killed in the middle of them: named and undone by whoever looks next.

And a full disk under an agent's data, on a host whose own disk has room.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from click.testing import CliRunner, Result
from pytest_runs import Project, PytestRun, project_in

from nomad_testkit.cli import main
from nomad_testkit.cli.lookup import opened_cluster
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.faults.book import FOLDER
from nomad_testkit.runs.run import Run

EXAMPLE = "nomad-consul-colocated-cluster"
SECONDS = 300.0

INNER = """
from contextlib import ExitStack

from nomad_testkit.checks import Leader, NodesReady
from nomad_testkit.operations import drained


def test_killed(nomad_cluster, nomad_faults, signs):
    server, client = nomad_cluster.servers[0], nomad_cluster.clients[0]
    nomad_cluster.require(Leader(), NodesReady(1), within=120)
    with ExitStack() as stack:
        for fault in ({faults},):
            stack.enter_context(fault)
        signs.give("made{number}")
        signs.wait("never")
"""
ENDING = """
from contextlib import ExitStack

from nomad_testkit.checks import Leader, NodesReady
from nomad_testkit.operations import drained


def test_ending(nomad_cluster, nomad_faults):
    server, client = nomad_cluster.servers[0], nomad_cluster.clients[0]
    nomad_cluster.require(Leader(), NodesReady(1), within=240)
    with ExitStack() as stack:
        for fault in ({faults},):
            stack.enter_context(fault)
    nomad_cluster.require(Leader(), NodesReady(1), within=240)
"""
AGENTS_AND_NETWORK = """
    drained(nomad_cluster, client),
    nomad_faults.partition([server], [client]),
    nomad_faults.block_port(4647, server),
    nomad_faults.lose(0.5, client),
    nomad_faults.throttle(50, client),
    nomad_faults.delay(0.1, client),
    nomad_faults.kill("nomad", client),
    nomad_faults.stop("consul", client),
    nomad_faults.freeze("nomad", server)
"""
UNDONE = (
    "make the node of",
    "remove the nftables table",
    "end the delay of packets on",
    "start nomad on",
    "start consul on",
    "thaw nomad on",
)
INSTANCE_AND_DISK = """
    nomad_faults.block_port(1234, server),
    nomad_faults.fill_disk(server, server.nomad.agent()["config"]["DataDir"]),
    nomad_faults.stop_instance(client)
"""
ENDED_INSTANCES = """
    nomad_faults.terminate_instance(client, power_cut=True),
    nomad_faults.reboot_instance(server)
"""
LEFT = """
nft list tables; mount; systemctl cat nomad consul; ls /run
tc qdisc; ip rule; ip -o link; systemctl list-units --all --plain 'nomad-testkit*'
"""
ATTACHED = """
from nomad_testkit.checks import Leader, NodesReady, NoFailedMembers


def test_it_is_whole(nomad_cluster):
    nomad_cluster.require({checks}, within=240)
"""
FULL = """
import pytest

from nomad_testkit.checks import Leader, NodesReady
from nomad_testkit.errors import AgentApiError


LARGE = "x" * 60_000


def put(host, agent, key, value):
    if agent == "consul":
        assert host.consul.put_key(key, value)
    else:
        host.nomad.put(f"/v1/var/{key}", {"Items": {"value": value}})


def value_of(host, agent, key):
    if agent == "consul":
        return host.consul.consistent_key(key)[0].decode()
    return host.nomad.get(f"/v1/var/{key}")["Items"]["value"]


@pytest.mark.parametrize("agent", ["consul", "nomad"])
def test_an_agent_has_no_room(agent, nomad_cluster, nomad_faults):
    server = nomad_cluster.servers[0]
    nomad_cluster.require(Leader(), NodesReady(1), within=120)
    folder = {
        "consul": lambda: server.consul.agent()["DebugConfig"]["DataDir"],
        "nomad": lambda: server.nomad.agent()["config"]["DataDir"],
    }[agent]()
    put(server, agent, "before", "kept")
    disk = server.run(f"stat -f -c %b {folder}").stdout
    since = server.run("date +%s").stdout.strip()
    with nomad_faults.fill_disk(server, folder):
        written = server.run(f"sudo -u $(stat -c %U {folder}) cp /etc/hostname {folder}/more", check=False)
        assert "No space left on device" in written.stderr
        with pytest.raises(AgentApiError):
            for _ in range(100):
                put(server, agent, "large", LARGE)
        told = server.run(f"journalctl -u {agent} --since @{since}", sudo=True).stdout
        assert "no space left on device" in told
    nomad_cluster.require(Leader(), NodesReady(1), within=240)
    assert server.run(f"stat -f -c %b {folder}").stdout == disk
    assert "fault" not in server.run("mount; ls /run; sudo ls " + folder).stdout
    assert value_of(server, agent, "before") == "kept"
    put(server, agent, "large", LARGE)
"""


@dataclass
class Attached:
    """A cluster that is up, the processes that attach to it, and the command line."""

    project: Project
    run: Run

    @contextmanager
    def killed_in(self, faults: str, number: int) -> Iterator[PytestRun]:
        """Attach a process that makes faults; it is killed after the block."""
        self.project.write(INNER.format(faults=faults.strip(), number=number))
        process = self.project.start("--nomad-attach", "dev")
        self.project.await_sign(process, f"made{number}")
        yield process
        process.kill()

    def call(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    def status(self) -> list[tuple[str, str]]:
        result = self.call("status", "dev", "--json")
        assert result.stdout, repr(result.exception)
        told = json.loads(result.stdout)["runs"][0]
        return [(fault["state"], fault["undo"]) for fault in told["faults"]]

    @property
    def books(self) -> list[str]:
        return [path.name for path in (self.run.folder / FOLDER).glob("*-*")]

    def require_healthy(self, checks: str = "Leader(), NodesReady(1)") -> None:
        """Wait until nothing is wrong with it, seen by a process that attaches."""
        self.project.write(ATTACHED.format(checks=checks))
        status, text = self.project.run("--nomad-attach", "dev", within=SECONDS)
        assert status == 0, text

    def require_nothing_left(self) -> None:
        """Look for what any of the faults would leave."""
        assert self.books == []
        with opened_cluster(self.run) as cluster:
            cluster.refresh()
            assert len(cluster.hosts) == 2
            for host in cluster.hosts:
                found = host.run(LEFT, sudo=True).stdout
                assert not re.search("nomad.testkit.fault|ntfault|netem|fwmark", found), found
                for unit in host.unit_states("consul", "nomad"):
                    assert unit.active in ("active", "activating")
            assert suspended(cluster) == []


def suspended(cluster: Cluster) -> list[str]:
    groups = cluster.target.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    return [one["ProcessName"] for group in groups for one in group.get("SuspendedProcesses", ())]


@pytest.fixture(scope="module")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    with project_in(tmp_path_factory.mktemp("killed")) as project, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NOMAD_TESTKIT_") and not name.endswith("_CACHE")]:
            patch.delenv(name)
        patch.setenv("NOMAD_TESTKIT_STATE", str(project.state))
        run = project.start_module("nomad_testkit", "up", EXAMPLE, "--servers", "1", "--clients", "1", "--name", "dev")
        try:
            assert run.await_end(SECONDS) == 0, run.text
            yield Attached(project, Run.find("dev"))
        finally:
            for left in Run.every():
                CliRunner().invoke(main, ["down", left.run_id])


def test_status_undoes_faults_of_agents_and_the_network_once_their_process_is_dead(attached: Attached) -> None:
    with attached.killed_in(AGENTS_AND_NETWORK, 1):
        held = attached.status()
        assert len(held) == 10  # a partition is one on each side
        assert {state for state, _ in held} == {"held"}, held
        with opened_cluster(attached.run) as cluster:
            assert "fault" in cluster.nomad_servers[0].run("nft list tables", sudo=True).stdout
            assert "fault" in cluster.clients[0].run("systemctl cat nomad", sudo=True).stdout
            assert re.search("ntfault|netem", cluster.clients[0].run("tc qdisc; ip -o link").stdout)
            assert cluster.clients[0].unit_state("consul").active == "inactive"
    text = attached.call("status", "dev").stdout
    for what in UNDONE:
        assert f"undone, which a killed process had left: {what}" in text, text
    assert "could not be done" not in text, text
    attached.require_nothing_left()
    assert attached.status() == []
    attached.require_healthy()
    with opened_cluster(attached.run) as cluster:
        assert [node["SchedulingEligibility"] for node in cluster.nomad.nodes()] == ["eligible"]


def test_a_block_that_ends_starts_agents_before_their_network_is_whole(attached: Attached) -> None:
    # Nomad's start waits for Consul's, which waits for servers that it does not reach until the partition ends, later.
    attached.project.write(ENDING.format(faults=AGENTS_AND_NETWORK.strip()))
    status, text = attached.project.run("--nomad-attach", "dev", within=SECONDS)
    assert status == 0, text
    attached.require_nothing_left()


def test_check_undoes_what_can_be_undone_and_attaching_is_refused_while_something_is_left(attached: Attached) -> None:
    with opened_cluster(attached.run) as cluster:
        server = cluster.nomad_servers[0]
        with attached.killed_in(INSTANCE_AND_DISK, 2):
            assert sorted(set(suspended(cluster))) == ["HealthCheck", "ReplaceUnhealthy"]
            assert "nomad-testkit-fault on /" in server.run("mount").stdout
        # What undoes one of them is not there for a while.
        server.run("mv /usr/sbin/nft /usr/sbin/nft.away", sudo=True)
        try:
            result = attached.call("check", "--name", "dev", "--within", "0")
            assert result.exit_code == 1, result.output
            for what in ("start i-", "resume HealthCheck, ReplaceUnhealthy of ", "give /"):
                assert f"undone, which a killed process had left: {what}" in result.stdout
            assert "this could not be done: remove the nftables table" in result.stdout
            assert [state for state, _ in attached.status()] == ["left"]
            status, text = attached.project.run("--nomad-attach", "dev")
            assert status != 0
            assert "has left faults in" in text
        finally:
            server.run("mv /usr/sbin/nft.away /usr/sbin/nft", sudo=True)
    result = attached.call("check", "--name", "dev", "--within", "240")
    assert result.exit_code == 0, result.output
    assert "undone, which a killed process had left: remove the nftables table" in result.stdout
    assert attached.status() == []
    attached.require_nothing_left()


def test_agents_whose_disk_is_full_say_so_and_have_their_data_afterwards(attached: Attached) -> None:
    attached.project.write(FULL)
    status, text = attached.project.run("--nomad-attach", "dev", within=SECONDS)
    assert status == 0, text
    attached.require_nothing_left()


def test_attaching_waits_for_instances_that_were_ended(attached: Attached) -> None:
    with attached.killed_in(ENDED_INSTANCES, 3):
        assert {state for state, _ in attached.status()} == {"held"}
    assert attached.books != []
    # The last of them: a Nomad server that was rebooted gives nodes of before 5 minutes (failover_heartbeat_ttl), so
    # that the one of the ended instance stays ready for that long.
    attached.require_healthy("Leader(), NoFailedMembers()")
    attached.require_nothing_left()
