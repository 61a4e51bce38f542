"""What nomad.service waits for before its agent."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from fake_host import FakeAgent, FakeClock
from host_commons import Waiting
from wait_for_consul import Consul, main, nomad_leader

NO_LEADER = (200, '""')


def consul(**answers: tuple[int, str] | None) -> Consul:
    paths = {
        "leader": "/v1/status/leader",
        "members": "/v1/agent/members",
        "registered": "/v1/health/service/nomad?tag=http",
        "passing": "/v1/health/service/nomad?tag=http&passing",
    }
    return Consul(FakeAgent({paths[name]: answer for name, answer in answers.items()}))


MEMBERS = json.dumps(
    [
        {"Name": name, "Status": status, "Tags": {"role": role}}
        for name, status, role in (("i-1", 1, "consul"), ("i-2", 4, "consul"), ("i-3", 1, "node"))
    ]
)
PASSING = json.dumps(
    [
        {"Node": {"Address": node}, "Service": {"Address": own, "Port": 4646}}
        for node, own in (("172.31.16.5", ""), ("172.31.32.5", "172.31.32.6"))
    ]
)


def test_a_leader_ends_the_wait() -> None:
    assert main(["leader", "10"], consul(leader=(200, '"172.31.16.5:8300"')), FakeClock()) == 0


def test_no_leader_is_status_1_and_says_who_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leader", "10"], consul(leader=NO_LEADER, members=(200, MEMBERS)), FakeClock()) == 1
    assert (
        "error: gave up after 10 s of waiting for a Consul leader: "
        "Consul has no leader; servers seen alive: i-1\n" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, "No known Consul servers"), r"Consul says 'No known Consul servers' \(HTTP 500\)"),
        (None, r"Consul does not answer on \S+:8500 \(Connection refused\)"),
    ],
)
def test_a_client_without_servers_and_no_consul_are_waited_for(answer: tuple[int, str] | None, message: str) -> None:
    with pytest.raises(Waiting, match=message):
        consul(leader=answer).leader()


def test_servers_are_where_their_service_or_else_their_node_is() -> None:
    assert consul(passing=(200, PASSING)).nomad_servers() == [("172.31.16.5", 4646), ("172.31.32.6", 4646)]


def _leader(nomad: tuple[int, str] | None, registered: str = PASSING, passing: str = PASSING) -> list[str]:
    connected = []

    def connect(host: str, port: int) -> FakeAgent:
        connected.append(f"{host}:{port}")
        return FakeAgent({"/v1/status/leader": nomad})

    nomad_leader(consul(registered=(200, registered), passing=(200, passing)), connect)
    return connected


def test_a_server_that_has_a_leader_ends_a_clients_wait_before_consul_has_checked_it() -> None:
    assert _leader((200, '"172.31.16.5:4647"'), passing="[]") == ["172.31.16.5:4646"]


@pytest.mark.parametrize("answer", [(200, '""'), (500, "No cluster leader")])
def test_servers_without_a_leader_are_waited_for(answer: tuple[int, str]) -> None:
    with pytest.raises(Waiting, match=r"servers have no leader; registered: 172.31.16.5, 172.31.32.6"):
        _leader(answer)


@pytest.mark.parametrize("answer", [None, (400, "Client sent an HTTP request to an HTTPS server.")])
def test_servers_that_cannot_be_asked_are_ready_when_one_is_healthy(answer: tuple[int, str] | None) -> None:
    assert _leader(answer) == ["172.31.16.5:4646", "172.31.32.6:4646"]
    with pytest.raises(Waiting, match="do not answer, and Consul finds none healthy"):
        _leader(answer, passing="[]")


def test_no_registered_server_is_waited_for() -> None:
    with pytest.raises(Waiting, match="no `nomad` service is registered in Consul"):
        _leader(None, registered="[]")


def tokens(service: FakeAgent) -> set[str | None]:
    return {headers.get("X-Consul-Token") for headers in service.headers}


def test_the_units_token_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "hidden")
    service = FakeAgent({"/v1/status/leader": (200, '"a"')})
    Consul(service).leader()
    assert tokens(service) == {"hidden"}


def test_a_token_of_its_own_has_to_be_known_too() -> None:
    service = FakeAgent({"/v1/status/leader": (200, '"a"'), "/v1/acl/token/self": (403, "ACL not found")})
    with pytest.raises(Waiting, match=r"Consul says 'ACL not found' \(HTTP 403\)"):
        Consul(service, token="hidden").leader()
    service.answers["/v1/acl/token/self"] = (200, "{}")
    Consul(service, token="hidden").leader()
    assert tokens(service) == {"hidden"}


def test_settings_tell_where_consul_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {"consul": {"address": ["127.0.0.1", port], "token": "hidden"}}
    (tmp_path / "settings").write_text(json.dumps(settings))
    with pytest.raises(Waiting, match=rf"Consul does not answer on http://127.0.0.1:{port}"):
        Consul.of(settings).leader()
    assert main(["leader", "1", str(tmp_path / "settings")], None, FakeClock()) == 1


def test_settings_that_are_not_there_are_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leader", "1", str(tmp_path / "settings")]) == 1
    assert f"error: {tmp_path}/settings: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["leader"], ["leader", "x"], ["other", "1"]])
def test_a_wrong_call_shows_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: ")
