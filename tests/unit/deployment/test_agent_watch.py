"""The watch of agents: it tells a boot what one server sees, and asks another where that one does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nomad_testkit.cluster.timeline import CONSUL_JOINED, NOMAD_READY
from nomad_testkit.deployment import agent_watch
from nomad_testkit.deployment.agent_watch import AgentWatch, joined_consul, ready_in_nomad
from nomad_testkit.deployment.boot import Boot
from nomad_testkit.errors import AgentApiError
from nomad_testkit.examples.example import Roles
from nomad_testkit.modules.network import Instance
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

ROLES = Roles(("servers",), ("servers",), ("clients",))
MEMBERS = [
    {"Addr": "172.31.0.4", "Status": 1},
    {"Addr": "172.31.0.5", "Status": 1},
    {"Addr": "172.31.0.6", "Status": 4},
]
NODES = [{"Address": "172.31.0.6", "Status": "ready"}, {"Address": "172.31.0.7", "Status": "initializing"}]


def host(number: int, group: str = "servers", *, answers: bool = True, leader: str = "172.31.0.4:4647") -> Any:
    def ask(answer: Any) -> Callable[..., Any]:
        def give(**_: Any) -> Any:
            if not answers:
                raise AgentApiError("consul", "http://127.31.0.4:8500", None, "connection refused")
            return answer

        return give

    instance = Instance(f"i-{number}", group, "running", f"172.31.0.{number}", "", "us-east-1a", "ami-1")
    consul = SimpleNamespace(members=ask(MEMBERS))
    nomad = SimpleNamespace(leader=ask(leader), peers=ask(["172.31.0.4:4647"]), nodes=ask(NODES))
    return SimpleNamespace(instance=instance, instance_id=instance.instance_id, consul=consul, nomad=nomad)


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Boot:
    monkeypatch.setattr(agent_watch, "INTERVAL", 0.001)
    return Boot("x", Deadline.after(30), say=lambda line: None, roles=ROLES)


@pytest.fixture
def watch(boot: Boot) -> Iterator[AgentWatch]:
    made = AgentWatch(boot, ROLES)
    yield made
    made.stop()


def phases(boot: Boot) -> dict[str, str]:
    return {host.instance_id: host.phase for host in boot.timeline()}


def test_members_that_live_have_joined() -> None:
    assert list(joined_consul(host(4))) == ["172.31.0.4", "172.31.0.5"]


def test_peers_of_a_leader_and_nodes_that_are_ready_are_ready() -> None:
    assert list(ready_in_nomad(host(4))) == ["172.31.0.4", "172.31.0.6"]
    assert list(ready_in_nomad(host(4, leader=""))) == []


def test_another_server_is_asked_where_one_does_not_answer(boot: Boot, watch: AgentWatch) -> None:
    hosts = [host(5, answers=False), host(4), host(6, "clients")]
    boot.see([one.instance for one in hosts])
    for one in hosts:
        watch.add(one)
    wanted = {"i-4": NOMAD_READY, "i-5": CONSUL_JOINED, "i-6": NOMAD_READY}

    def probe() -> Ok[None] | Pending:
        return Ok(None) if phases(boot) == wanted else Pending(str(phases(boot)))

    wait_until("what the servers see", probe, deadline=Deadline.after(30), interval=0.01)


def test_clients_are_asked_nothing(boot: Boot, watch: AgentWatch) -> None:
    watch.add(host(6, "clients"))
    assert watch._hosts == []


def test_a_phase_is_lacking_until_every_host_that_comes_to_it_has(boot: Boot) -> None:
    boot.expect({"servers": 1, "clients": 1})
    assert boot.lacks(CONSUL_JOINED)
    boot.see([host(4).instance])
    boot.all_ready()
    assert boot.lacks(CONSUL_JOINED), "one is not launched yet"
    boot.see([host(6, "clients").instance])
    boot.enter("i-6", CONSUL_JOINED)
    assert not boot.lacks(CONSUL_JOINED)
    assert boot.lacks(NOMAD_READY)
    boot.all_ready()
    assert not boot.lacks(NOMAD_READY)
