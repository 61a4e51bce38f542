"""The agents' clients against a local server: what they send, whatever the environment says, and errors."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import dnslib
import dnslib.server
import pytest
import requests
from local_server import QuietHandler, serving

from nomad_testkit.cluster.clients import ConsulClient, NomadClient
from nomad_testkit.cluster.clients.dns import DnsAnswer, ask
from nomad_testkit.cluster.clients.session import describe
from nomad_testkit.errors import AgentApiError

ELSEWHERE = "http://203.0.113.1:1"
POISON = {
    "NOMAD_ADDR": ELSEWHERE,
    "NOMAD_TOKEN": "stolen",
    "NOMAD_NAMESPACE": "other",
    "NOMAD_REGION": "elsewhere",
    "NOMAD_CLIENT_CERT": "/nonexistent/cert",
    "NOMAD_CLIENT_KEY": "/nonexistent/key",
    "CONSUL_HTTP_TOKEN": "stolen",
    "CONSUL_HTTP_SSL": "true",
    "CONSUL_HTTP_SSL_VERIFY": "true",
    "HTTP_PROXY": ELSEWHERE,
    "http_proxy": ELSEWHERE,
    "ALL_PROXY": ELSEWHERE,
    "REQUESTS_CA_BUNDLE": "/nonexistent/bundle",
}


@dataclass
class Agent:
    """A scripted agent: answers by method and path, and what it was asked."""

    address: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=lambda: {"X-Consul-Index": "1", "X-Nomad-Index": "1"})
    connections: int = 0


@pytest.fixture
def agent() -> Iterator[Agent]:
    script = Agent()

    class Handler(QuietHandler):
        def setup(self) -> None:
            super().setup()
            script.connections += 1

        def _answer(self) -> None:
            script.asked.append((f"{self.command} {self.path}", dict(self.headers), self.body()))
            if self.path.startswith("/v1/status/peers") and "hang" in script.answers:
                script.silent.wait(20)
            status, answer = script.answers.get(f"{self.command} {self.path}", (404, "no such path"))
            content = answer if isinstance(answer, str) else json.dumps(answer)
            self.answer(status, content.encode(), **script.headers)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

    with serving(Handler) as port:
        script.address = f"http://127.0.0.1:{port}"
        yield script
        script.silent.set()


@pytest.fixture
def nomad(agent: Agent) -> Iterator[NomadClient]:
    with closing(NomadClient(agent.address)) as client:
        yield client


@pytest.fixture
def consul(agent: Agent) -> Iterator[ConsulClient]:
    with closing(ConsulClient(agent.address)) as client:
        yield client


@pytest.mark.parametrize("consul_address", ["http://203.0.113.1:1", "203.0.113.1:1", "not:an:address:at:all"])
def test_the_environment_redirects_nothing(
    agent: Agent, nomad: NomadClient, consul: ConsulClient, monkeypatch: pytest.MonkeyPatch, consul_address: str
) -> None:
    for name, value in POISON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul_address)
    agent.answers |= {
        "GET /v1/status/leader": (200, '"172.31.16.5:4647"'),
        "GET /v1/status/leader?stale=true": (200, '"172.31.16.5:4647"'),
        "GET /v1/operator/autopilot/health": (200, {"Healthy": True}),
        "GET /v1/job/x/allocations?all=true": (200, []),
        "GET /v1/node/n": (200, {}),
        "DELETE /v1/job/x?purge=true": (200, {}),
        "GET /v1/kv/key": (404, ""),
    }
    assert nomad.leader() == consul.leader() == "172.31.16.5:4647"
    assert nomad.autopilot_health() == consul.autopilot_health() == {"Healthy": True}
    nomad.job_allocations("x")
    nomad.node("n")
    nomad.deregister("x", purge=True)
    assert consul.get_key("key") is None
    assert not {"X-Nomad-Token", "X-Consul-Token"} & {name for _, headers, _ in agent.asked for name in headers}
    assert {line for line, _, _ in agent.asked} == set(agent.answers)


def test_a_nomad_server_tells_for_itself_who_leads_and_who_its_peers_are(agent: Agent, nomad: NomadClient) -> None:
    """Without ?stale it would ask the leader, and a server that sees only itself would not be noticed."""
    agent.answers["GET /v1/status/leader?stale=true"] = (200, '""')
    agent.answers["GET /v1/status/peers?stale=true"] = (200, "null")
    assert (nomad.leader(), nomad.peers()) == ("", [])


def test_another_program_on_consuls_port_is_an_api_error(agent: Agent, consul: ConsulClient) -> None:
    agent.headers.clear()
    for read in (consul.leader, consul.peers, consul.members, consul.nodes):
        with pytest.raises(AgentApiError, match="no such path; is this a Consul agent") as caught:
            read()
        assert caught.value.status == 404
    agent.answers["GET /v1/catalog/services"] = (200, {})
    with pytest.raises(AgentApiError, match="the answer lacks 'x-consul-index'; is this a Consul agent"):
        consul.services()


def test_each_client_asks_all_over_one_connection(agent: Agent, nomad: NomadClient, consul: ConsulClient) -> None:
    """Connecting again for each question would double what an observation of all hosts costs."""
    agent.answers |= {
        "GET /v1/status/leader": (200, '"x"'),
        "GET /v1/status/leader?stale=true": (200, '"x"'),
        "GET /v1/agent/members": (200, {"Members": []}),
        "GET /v1/health/service/web": (200, []),
        "GET /v1/nodes": (200, []),
    }
    for _ in range(3):
        nomad.leader()  # ours
        nomad.members()  # python-nomad's
        consul.health("web")
        consul.leader()
    assert len(agent.asked) == 12
    assert agent.connections == 2


def test_a_token_goes_out_with_every_request(agent: Agent) -> None:
    agent.answers |= {f"GET /v1/status/leader{query}": (200, '"x"') for query in ("", "?stale=true")}
    agent.answers["GET /v1/nodes"] = (200, [])
    agent.answers["GET /v1/health/service/web?passing=true"] = (200, [])
    with closing(NomadClient(agent.address, "secret-1")) as nomad:
        nomad.leader()
        nomad.nodes()
    with closing(ConsulClient(agent.address, "secret-2")) as consul:
        consul.leader()
        consul.health("web", passing=True)
    assert [headers.get("X-Nomad-Token") for _, headers, _ in agent.asked] == ["secret-1"] * 2 + [None] * 2
    assert [headers.get("X-Consul-Token") for _, headers, _ in agent.asked] == [None] * 2 + ["secret-2"] * 2


def test_unhealthy_autopilot_is_an_answer(agent: Agent, nomad: NomadClient, consul: ConsulClient) -> None:
    agent.answers["GET /v1/operator/autopilot/health"] = (429, {"Healthy": False, "Servers": []})
    assert nomad.autopilot_health()["Healthy"] is False
    assert consul.autopilot_health()["Healthy"] is False


Call = Callable[[NomadClient, ConsulClient], object]
CALLS: list[Call] = [
    lambda nomad, _: nomad.members(),  # by python-nomad
    lambda nomad, _: nomad.nodes(),  # by us
    lambda _, consul: consul.leader(),
    lambda _, consul: consul.health("web"),
]


@pytest.mark.parametrize("call", CALLS)
def test_an_error_keeps_status_and_message(agent: Agent, nomad: NomadClient, consul: ConsulClient, call: Call) -> None:
    for path in ("agent/members", "nodes", "status/leader", "health/service/web"):
        agent.answers[f"GET /v1/{path}"] = (500, "No cluster leader")
    with pytest.raises(AgentApiError, match=r"at http://127\.0\.0\.1:\d+.* answered 500: No") as caught:
        call(nomad, consul)
    assert (caught.value.status, caught.value.message) == (500, "No cluster leader")


def test_every_client_error_of_consul_keeps_its_status(agent: Agent, consul: ConsulClient) -> None:
    for status in (400, 401, 403, 409):
        agent.answers["GET /v1/agent/self"] = (status, "Permission denied")
        with pytest.raises(AgentApiError) as caught:
            consul.agent()
        assert (caught.value.status, caught.value.message) == (status, "Permission denied")


@pytest.mark.parametrize("call", CALLS)
def test_nobody_listening_has_no_status(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(AgentApiError, match=f"{address}.* did not answer: connection refused") as caught:
        call(NomadClient(address), ConsulClient(address))
    assert caught.value.status is None


def test_an_agent_that_never_answers_ends_in_an_error(agent: Agent) -> None:
    agent.answers["hang"] = (200, "")
    for client in (NomadClient(agent.address, timeout=0.2), ConsulClient(agent.address, timeout=0.2)):
        with pytest.raises(AgentApiError, match="did not answer: no answer in time"):
            client.peers()
        client.close()


def test_a_body_that_is_no_json_is_an_error(agent: Agent, nomad: NomadClient, consul: ConsulClient) -> None:
    for path in ("agent/members", "status/leader", "nodes"):
        agent.answers[f"GET /v1/{path}"] = (200, "<html>a proxy's page</html>")
    for call in (nomad.members, nomad.nodes, consul.leader):
        with pytest.raises(AgentApiError, match="expected JSON"):
            call()


def test_a_job_is_parsed_with_its_variables_and_logs_are_read_as_plain_text(agent: Agent, nomad: NomadClient) -> None:
    agent.answers["POST /v1/jobs/parse"] = (200, {"ID": "x"})
    assert nomad.parse("job {}", variables="count = 2\n") == {"ID": "x"}
    assert json.loads(agent.asked[0][2]) == {"JobHCL": "job {}", "Variables": "count = 2\n", "Canonicalize": True}
    agent.answers["GET /v1/client/fs/logs/a1?task=echo&type=stdout&plain=true&follow=false"] = (200, "hello\n")
    assert nomad.logs("a1", "echo") == "hello\n"


def test_stale_asks_the_server_for_what_it_knows_itself(agent: Agent, nomad: NomadClient, consul: ConsulClient) -> None:
    agent.answers |= {
        "GET /v1/nodes?stale=true": (200, [{}]),
        "GET /v1/health/service/web?stale=": (200, [{}, {}]),
        "GET /v1/catalog/services?stale=": (200, {"web": []}),
    }
    assert nomad.nodes(stale=True) == [{}]
    assert consul.health("web", stale=True) == [{}, {}]
    assert consul.services(stale=True) == {"web": []}


def test_a_server_without_a_leader_is_not_believed(agent: Agent, nomad: NomadClient, consul: ConsulClient) -> None:
    agent.answers |= {
        "GET /v1/nodes?stale=true": (200, []),
        "GET /v1/job/web/allocations?all=true&stale=true": (200, []),
        "GET /v1/health/service/web?stale=": (200, []),
        "GET /v1/catalog/services?stale=": (200, {}),
        "GET /v1/catalog/node/i-1?stale=": (200, None),
    }
    for read, *arguments in (
        (nomad.nodes,),
        (nomad.job_allocations, "web"),
        (consul.health, "web"),
        (consul.services,),
        (consul.node, "i-1"),
    ):
        agent.headers |= {"X-Consul-Knownleader": "true", "X-Nomad-Knownleader": "true"}
        read(*arguments, stale=True)
        agent.headers |= {"X-Consul-Knownleader": "false", "X-Nomad-Knownleader": "false"}
        with pytest.raises(AgentApiError, match="answered 200: it knows no leader, so what it says may be out of date"):
            read(*arguments, stale=True)


def test_keys_are_written_and_read(agent: Agent, consul: ConsulClient) -> None:
    agent.answers |= {"PUT /v1/kv/a": (200, True), "GET /v1/kv/a": (200, [{"Key": "a", "Value": "aGVsbG8="}])}
    assert consul.put_key("a", "hello") is True
    assert consul.get_key("a") == b"hello"


def test_every_part_of_python_consul2_is_there_and_none_warns(consul: ConsulClient) -> None:
    for part in ("acl", "discovery_chain", "kv", "operator", "txn"):
        assert type(getattr(consul.raw, part)).__module__ == "consul.base"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = consul.raw.nonsense


def test_a_failure_is_described_without_objects_in_memory() -> None:
    assert describe(requests.exceptions.ConnectTimeout()) == "no connection within 3 s"
    assert describe(requests.exceptions.ConnectionError(ValueError("odd"))) == "odd"


class _Zone(dnslib.server.BaseResolver):  # type: ignore[misc]
    def resolve(self, request: Any, handler: object) -> Any:
        reply = request.reply()
        zone = "web.service.consul. 0 A 172.31.16.21\nweb.service.consul. 0 SRV 1 1 24000 i-1.node.consul."
        for entry in dnslib.RR.fromZone(zone):
            if request.q.qname == entry.rname and request.q.qtype == entry.rtype:
                reply.add_answer(entry)
        if not reply.rr:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        return reply


@pytest.mark.parametrize("tcp", [False, True])
def test_dns_answers_are_read(tcp: bool) -> None:
    server = dnslib.server.DNSServer(
        _Zone(), address="127.0.0.1", port=0, tcp=tcp, logger=dnslib.server.DNSLogger("-request,-reply")
    )
    with server.server:
        server.start_thread()
        port = server.server.server_address[1]
        assert ask("127.0.0.1", port, "web.service.consul", tcp=tcp) == DnsAnswer("NOERROR", ("172.31.16.21",))
        srv = ask("127.0.0.1", port, "web.service.consul", "SRV", tcp=tcp)
        assert srv.values == ("24000 i-1.node.consul",)
        assert ask("127.0.0.1", port, "gone.service.consul", tcp=tcp) == DnsAnswer("NXDOMAIN", ())
        server.stop()


def test_a_dns_server_that_is_not_there_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(AgentApiError, match=f"DNS at dns://127.0.0.1:{port}/a.consul did not answer"):
            ask("127.0.0.1", port, "a.consul", timeout=0.2)
