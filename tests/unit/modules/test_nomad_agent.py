"""A Nomad agent after its start: how a server finds the others, when it is ready, and its first token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from host_commons import Answer, HostFault, Service, Waiting
from nomad_agent import Agent
from wait_for_consul import Consul

TOKEN = "6cdb7d0b-ab20-4d39-9a3c-6dd5ec2a01b5"


class FakeNomad(Service):
    def __init__(self, **answers: tuple[int, str]) -> None:
        super().__init__("127.0.0.1", 4646)
        self.answers = answers
        self.asked: list[str] = []
        self.sent: list[object] = []
        self.tokens: list[str | None] = []

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        self.asked.append(f"{method} {path}")
        self.sent.append(json.loads(body) if body else None)
        self.tokens.append((headers or {}).get("X-Nomad-Token"))
        for name, (status, text) in self.answers.items():
            if name in path:
                return Answer(status, text.encode())
        raise ConnectionRefusedError("Connection refused")


class FakeCatalog(Consul):
    def __init__(self, *servers: str) -> None:
        self.servers = list(servers)

    def nomad_servers(self, tag: str = "http", *, passing: bool = True) -> list[tuple[str, int]]:
        assert (tag, passing) == ("serf", False)
        return [(server, 4648) for server in self.servers]


def test_a_server_is_ready_when_it_knows_its_leader() -> None:
    nomad = FakeNomad(leader=(200, '"172.31.32.5:4647"'))
    Agent(FakeCatalog(), server=True, address="172.31.16.5", data_dir=Path("/opt"), service=nomad).ready()
    assert nomad.asked == ["GET /v1/status/leader"]


def test_a_server_without_a_leader_joins_each_other_server_once() -> None:
    nomad = FakeNomad(leader=(200, '""'), join=(200, '{"num_joined":1}'))
    catalog = FakeCatalog("172.31.16.5", "172.31.32.5")
    agent = Agent(catalog, server=True, address="172.31.16.5", data_dir=Path("/opt"), service=nomad)
    for _ in range(2):
        with pytest.raises(Waiting, match="no leader"):
            agent.ready()
    catalog.servers.append("172.31.48.5")
    with pytest.raises(Waiting, match=r"asked to join 172.31.48.5:4648"):
        agent.ready()
    assert [asked for asked in nomad.asked if "join" in asked] == [
        "PUT /v1/agent/join?address=172.31.32.5:4648",
        "PUT /v1/agent/join?address=172.31.48.5:4648",
    ]


def test_a_server_joins_before_it_asks_for_a_leader() -> None:
    """Nomad keeps that question waiting for seconds while there is none."""
    nomad = FakeNomad(leader=(200, '"172.31.32.5:4647"'), join=(500, "no route to host"))
    Agent(FakeCatalog("172.31.32.5"), server=True, address="172.31.16.5", data_dir=Path("/opt"), service=nomad).ready()
    assert nomad.asked == ["PUT /v1/agent/join?address=172.31.32.5:4648", "GET /v1/status/leader"]


def test_a_refused_join_is_tried_again() -> None:
    nomad = FakeNomad(leader=(500, "No cluster leader"), join=(500, "no route to host"))
    agent = Agent(FakeCatalog("172.31.32.5"), server=True, address="172.31.16.5", data_dir=Path("/opt"), service=nomad)
    for _ in range(2):
        with pytest.raises(Waiting, match="no route to host"):
            agent.ready()
    assert len([asked for asked in nomad.asked if "join" in asked]) == 2


def server(**answers: tuple[int, str]) -> tuple[Agent, FakeNomad]:
    nomad = FakeNomad(**answers)
    return Agent(FakeCatalog(), server=True, address="172.31.16.5", data_dir=Path("/opt"), service=nomad), nomad


def test_a_token_is_made_the_first() -> None:
    agent, nomad = server(token=(403, "ACL token not found"), bootstrap=(200, "{}"))
    agent.bootstrap_acl(TOKEN)
    assert nomad.asked == ["GET /v1/acl/token/self", "POST /v1/acl/bootstrap"]
    assert nomad.sent == [None, {"BootstrapSecret": TOKEN}]
    assert nomad.tokens == [TOKEN, None]


def test_the_first_token_is_made_once() -> None:
    agent, nomad = server(token=(200, "{}"))
    agent.bootstrap_acl(TOKEN)
    assert nomad.asked == ["GET /v1/acl/token/self"]


def test_the_first_token_waits_for_a_leader() -> None:
    agent, _ = server(token=(500, "No cluster leader"))
    with pytest.raises(Waiting, match="No cluster leader"):
        agent.bootstrap_acl(TOKEN)


def test_another_first_token_is_a_fault() -> None:
    agent, _ = server(token=(403, ""), bootstrap=(400, "ACL bootstrap already done (reset index: 7)"))
    with pytest.raises(HostFault, match=r"already done \(reset index: 7\)', and does not know the token") as caught:
        agent.bootstrap_acl(TOKEN)
    assert TOKEN not in str(caught.value)


def client(folder: Path, nomad: FakeNomad) -> Agent:
    (folder / "client").mkdir()
    (folder / "client" / "client-id").write_text("bebe02b3-56ff\n")
    return Agent(FakeCatalog(), server=False, address="172.31.16.5", data_dir=folder, service=nomad)


def test_a_client_is_ready_when_the_servers_find_it_so(tmp_path: Path) -> None:
    nomad = FakeNomad(health=(500, '{"client":{"ok":false,"message":"no known servers"}}'))
    agent = client(tmp_path, nomad)
    with pytest.raises(Waiting, match="no known servers"):
        agent.ready()
    nomad.answers = {"health": (200, '{"client":{"ok":true}}'), "node": (404, "node not found")}
    with pytest.raises(Waiting, match="node bebe02b3-56ff: 'node not found'"):
        agent.ready()
    nomad.answers["node"] = (200, '{"Status":"initializing"}')
    with pytest.raises(Waiting, match="node bebe02b3-56ff is initializing"):
        agent.ready()
    nomad.answers["node"] = (200, '{"Status":"ready"}')
    agent.ready()
    assert nomad.asked[-1] == "GET /v1/node/bebe02b3-56ff"


def test_a_client_that_has_no_id_yet_is_waited_for(tmp_path: Path) -> None:
    nomad = FakeNomad(health=(200, '{"client":{"ok":true}}'))
    agent = Agent(FakeCatalog(), server=False, address="172.31.16.5", data_dir=tmp_path, service=nomad)
    with pytest.raises(Waiting, match=r"the client has no id in \S+/client/client-id yet"):
        agent.ready()


def test_where_acls_hide_the_node_a_healthy_client_is_enough(tmp_path: Path) -> None:
    client(tmp_path, FakeNomad(health=(200, '{"client":{"ok":true}}'), node=(403, "Permission denied"))).ready()


def test_an_agent_that_does_not_answer_is_waited_for(tmp_path: Path) -> None:
    agent = client(tmp_path, FakeNomad())
    with pytest.raises(Waiting, match=r"Nomad does not answer on \S+:4646 \(Connection refused\)"):
        agent.ready()
