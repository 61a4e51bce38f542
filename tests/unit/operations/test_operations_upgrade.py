"""The order of an upgrade, what it does on a host, and what it refuses before it touches one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fault_lab import cluster_of
from recording_host import RecordingHost

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError, CommandFailed, DeployError, UsageError
from nomad_testkit.images.agents import Agent
from nomad_testkit.operations import upgrade
from nomad_testkit.ssh import CommandResult

PROGRAM = "/opt/consul/bin/consul"
RENAMES = f"ln -f {PROGRAM} {PROGRAM}.old && mv -fT {PROGRAM}.new {PROGRAM}"
SHA256 = "ab" * 32


class AgentHost(RecordingHost):
    """A host with a Consul whose version is that of its program, once the unit has been restarted."""

    def __init__(self, number: int, group: str) -> None:
        super().__init__(number, group)
        self.done: list[str] = []
        self.running, self.machine = "1.13.9", "x86_64"
        self.starts = True

    @property
    def consul(self) -> Any:
        return self

    def version(self) -> str:
        if not self.running:
            raise AgentApiError("consul", self.address, None, "connection refused")
        return self.running

    def leader(self) -> str:
        return "172.31.0.1:8300"

    def put(self, source: bytes | str | Path, remote: str, *, mode: int = 0o644, sudo: bool = False) -> None:
        self.done.append(f"put {remote}")

    def journal(self, unit: str, lines: int = 50) -> str:
        return "panic: no"

    def run(self, command: str, *, timeout: float = 60.0, check: bool = True, sudo: bool = False) -> CommandResult:
        if command == "uname -m":
            return CommandResult(0, self.machine, "")
        if command.startswith("readlink"):
            return CommandResult(0, f"{PROGRAM}\n", "")
        if command.startswith("sha256sum"):
            return CommandResult(0, f"{SHA256}  {PROGRAM}.new\n", "")
        self.done.append(command)
        if command == "systemctl restart consul":
            if not self.starts:
                raise CommandFailed(self.address, command, 1, "", "Job failed")
            self.running = "1.14.0"
        return CommandResult(0, "", "")


@pytest.fixture
def hosts() -> list[AgentHost]:
    return [AgentHost(number, "servers" if number < 4 else "clients") for number in range(1, 6)]


@pytest.fixture
def cluster(hosts: list[AgentHost], monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(Cluster, "require", lambda *_, **__: None)
    monkeypatch.setattr("nomad_testkit.operations.upgrades.elf_architecture", lambda _: "amd64")
    return cluster_of(hosts, Path("no-folder"))


NEW = Agent("consul", "1.14.0", Path("/new/consul"), SHA256, "given")


def test_the_leader_is_the_last_of_the_servers_and_clients_follow(cluster: Cluster, hosts: list[AgentHost]) -> None:
    order: list[Host] = []
    upgrade(cluster, NEW, between=order.append)
    assert order == [hosts[1], hosts[2], hosts[0], hosts[3], hosts[4]]
    assert {host.running for host in hosts} == {"1.14.0"}


def test_the_program_is_replaced_by_a_rename_and_nothing_is_left(cluster: Cluster, hosts: list[AgentHost]) -> None:
    upgrade(cluster, NEW)
    assert hosts[0].done == [
        f"put {PROGRAM}.new",
        f"chown --reference={PROGRAM} {PROGRAM}.new && {RENAMES}",
        "systemctl restart consul",
        f"rm -f {PROGRAM}.old",
    ]


def test_an_interrupted_upgrade_goes_on_where_it_was(cluster: Cluster, hosts: list[AgentHost]) -> None:
    hosts[1].running = hosts[4].running = "1.14.0"
    order: list[Host] = []
    upgrade(cluster, NEW, between=order.append)
    assert order == [hosts[2], hosts[0], hosts[3]]
    assert hosts[1].done == hosts[4].done == []


def test_a_program_that_does_not_start_is_taken_back_and_none_follows(cluster: Cluster, hosts: list[AgentHost]) -> None:
    hosts[1].starts = False
    with pytest.raises(DeployError, match=r"(?s)consul 1\.14\.0 does not start on i-2 .*has 1\.13\.9 again.*panic"):
        upgrade(cluster, NEW)
    assert hosts[1].done[-1].startswith(f"mv -fT {PROGRAM}.old {PROGRAM} && ")
    assert [host.done for host in hosts if host != hosts[1]] == [[], [], [], []]


def test_a_program_that_was_damaged_on_its_way_is_never_started(cluster: Cluster, hosts: list[AgentHost]) -> None:
    other = Agent("consul", "1.14.0", Path("/new/consul"), "cd" * 32, "given")
    with pytest.raises(DeployError, match=f"with SHA-256 {SHA256}, and /new/consul has {'cd' * 32}"):
        upgrade(cluster, other)
    assert hosts[1].done == [f"put {PROGRAM}.new", f"rm -f {PROGRAM}.new"]


@pytest.mark.parametrize(
    ("number", "facts", "said"),
    [
        (
            2,
            {"running": "1.14.1"},
            r"is consul 1\.14\.0, and there runs 1\.14\.1 on i-3: Consul cannot be downgraded.* 1\.14\.1",
        ),
        (3, {"machine": "aarch64"}, "/new/consul is for amd64, and i-4 is arm64; expected a program for the hosts"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    cluster: Cluster, hosts: list[AgentHost], number: int, facts: dict[str, str], said: str
) -> None:
    vars(hosts[number]).update(facts)
    with pytest.raises(UsageError, match=said):
        upgrade(cluster, NEW)
    assert all(host.done == [] for host in hosts)


def test_a_host_that_does_not_answer_keeps_all_from_being_upgraded(cluster: Cluster, hosts: list[AgentHost]) -> None:
    hosts[4].running = ""
    with pytest.raises(DeployError, match=r"nothing is upgraded.* i-5 .*connection refused"):
        upgrade(cluster, NEW)
    assert all(host.done == [] for host in hosts)
