"""A Nomad agent after its start: how a server finds the others, when it is ready, and its first token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_host import FakeAgent
from host_commons import HostFault, Waiting
from nomad_agent import Agent
from wait_for_consul import Consul

TOKEN = "6cdb7d0b-ab20-4d39-9a3c-6dd5ec2a01b5"


class FakeNomad(FakeAgent):
    """Answers the paths that have a name in them."""

    def answer(self, method: str, path: str) -> tuple[int, str] | None:
        return next((answer for name, answer in self.answers.items() if name in path), None)


class FakeCatalog(Consul):
    def __init__(self, *servers: str) -> None:
        self.servers = list(servers)

    def nomad_servers(self, tag: str = "http", *, passing: bool = True) -> list[tuple[str, int]]:
        assert (tag, passing) == ("serf", False)
        return [(server, 4648) for server in self.servers]


def server(*others: str, **answers: tuple[int, str]) -> tuple[Agent, FakeNomad, FakeCatalog]:
    nomad, catalog = FakeNomad(answers), FakeCatalog(*others)
    return Agent(catalog, server=True, address="172.31.16.5", data_dir=Path("/opt"), service=nomad), nomad, catalog


LEADER = (200, '"172.31.32.5:4647"')
JOINS = [f"PUT /v1/agent/join?address=172.31.{part}.5:4648" for part in (32, 48)]


def test_a_server_is_ready_when_it_knows_its_leader() -> None:
    agent, nomad, _ = server(leader=LEADER)
    agent.ready()
    assert nomad.asked == ["GET /v1/status/leader"]


def test_a_server_without_a_leader_joins_each_other_server_once() -> None:
    agent, nomad, catalog = server("172.31.16.5", "172.31.32.5", leader=(200, '""'), join=(200, '{"num_joined":1}'))
    for _ in range(2):
        with pytest.raises(Waiting, match="no leader"):
            agent.ready()
    catalog.servers.append("172.31.48.5")
    with pytest.raises(Waiting, match=r"asked to join 172.31.48.5:4648"):
        agent.ready()
    assert [asked for asked in nomad.asked if "join" in asked] == JOINS


def test_a_server_joins_before_it_asks_for_a_leader() -> None:
    """Nomad keeps that question waiting for seconds while there is none."""
    agent, nomad, _ = server("172.31.32.5", leader=LEADER, join=(500, "no route to host"))
    agent.ready()
    assert nomad.asked == [JOINS[0], "GET /v1/status/leader"]


def test_a_refused_join_is_tried_again() -> None:
    agent, nomad, _ = server("172.31.32.5", leader=(500, "No cluster leader"), join=(500, "no route to host"))
    for _ in range(2):
        with pytest.raises(Waiting, match="no route to host"):
            agent.ready()
    assert len([asked for asked in nomad.asked if "join" in asked]) == 2


def test_the_first_token_is_made_once() -> None:
    agent, nomad, _ = server(token=(403, "ACL token not found"), bootstrap=(200, "{}"))
    agent.bootstrap_acl(TOKEN)
    assert nomad.asked == ["GET /v1/acl/token/self", "POST /v1/acl/bootstrap"]
    assert [json.loads(body) if body else None for body in nomad.bodies] == [None, {"BootstrapSecret": TOKEN}]
    assert [headers.get("X-Nomad-Token") for headers in nomad.headers] == [TOKEN, None]
    nomad.answers["token"] = (200, "{}")
    agent.bootstrap_acl(TOKEN)
    assert nomad.asked[2:] == ["GET /v1/acl/token/self"]


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ({"token": (500, "No cluster leader")}, Waiting, "No cluster leader"),
        (
            {"token": (403, ""), "bootstrap": (400, "ACL bootstrap already done (reset index: 7)")},
            HostFault,
            r"already done \(reset index: 7\)', and does not know the token",
        ),
    ],
)
def test_the_first_token_waits_for_a_leader_and_another_one_is_a_fault(
    answers: dict[str, tuple[int, str]], error: type[Exception], message: str
) -> None:
    agent, _, _ = server(**answers)
    with pytest.raises(error, match=message) as caught:
        agent.bootstrap_acl(TOKEN)
    assert TOKEN not in str(caught.value)


OK = (200, '{"client":{"ok":true}}')


def client(folder: Path, client_id: str = "bebe02b3-56ff\n", **answers: tuple[int, str]) -> tuple[Agent, FakeNomad]:
    (folder / "client").mkdir()
    if client_id:
        (folder / "client" / "client-id").write_text(client_id)
    nomad = FakeNomad(answers)
    return Agent(FakeCatalog(), server=False, address="172.31.16.5", data_dir=folder, service=nomad), nomad


@pytest.mark.parametrize(
    ("answers", "client_id", "message"),
    [
        ({}, "a", r"Nomad does not answer on \S+:8500 \(Connection refused\)"),
        ({"health": (500, '{"client":{"ok":false,"message":"no known servers"}}')}, "a", "no known servers"),
        ({"health": OK}, "", r"the client has no id in \S+/client/client-id yet"),
        ({"health": OK, "node": (404, "node not found")}, "bebe02b3\n", "node bebe02b3: 'node not found'"),
        ({"health": OK, "node": (200, '{"Status":"initializing"}')}, "bebe02b3\n", "node bebe02b3 is initializing"),
    ],
)
def test_a_client_that_is_not_ready_is_waited_for(
    answers: dict[str, tuple[int, str]], client_id: str, message: str, tmp_path: Path
) -> None:
    agent, _ = client(tmp_path, client_id, **answers)
    with pytest.raises(Waiting, match=message):
        agent.ready()


# Where ACLs hide the node, a healthy client is enough.
@pytest.mark.parametrize("node", [(200, '{"Status":"ready"}'), (403, "Permission denied")])
def test_a_client_is_ready_when_the_servers_find_it_so(node: tuple[int, str], tmp_path: Path) -> None:
    agent, nomad = client(tmp_path, health=OK, node=node)
    agent.ready()
    assert nomad.asked[-1] == "GET /v1/node/bebe02b3-56ff"
