"""A cluster that answers from fixtures/recorded: what real agents said, through the real clients and parsers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from nomad_testkit.cluster.clients import dns
from nomad_testkit.cluster.clients.dns import DnsAnswer
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.jobs import Job
from nomad_testkit.modules.bundle import fixtures_dir
from nomad_testkit.modules.network import Instance
from nomad_testkit.ssh import CommandResult


def answer_of(instance_id: str, by_host: dict[str, Any]) -> Any:
    """Pick a host's answer to one question; `*` is what all that were asked answered."""
    return by_host.get(instance_id, by_host.get("*"))


class Replay(requests.adapters.HTTPAdapter):
    """Answers a host's requests from the recording; what was not recorded is refused, as by a stopped agent."""

    def __init__(self, answers: dict[str, Any], instance_id: str) -> None:
        super().__init__()
        self.answers, self.instance_id = answers, instance_id

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        answer = answer_of(self.instance_id, self.answers.get(str(request.path_url), {}))
        if answer is None:
            raise requests.exceptions.ConnectionError(ConnectionRefusedError(111, "Connection refused"))
        response = requests.Response()
        response.status_code, response.url, response.request = answer["status"], str(request.url), request
        response.headers.update({"X-Consul-Index": "1", "X-Nomad-Index": "1"})
        plain = (answer["status"] >= 400 and isinstance(answer["body"], str)) or "/fs/logs/" in str(request.path_url)
        response._content = (answer["body"] if plain else json.dumps(answer["body"])).encode()
        response.encoding = "utf-8"
        return response


class RecordedHost(Host):
    """A host of a recording; commands on it answer what they printed then."""

    def __init__(self, instance_id: str, facts: dict[str, str], group: str, answers: dict[str, Any]) -> None:
        address = facts["private_ip"]
        zone = facts["availability_zone"]
        instance = Instance(instance_id, group, "running", address, address, zone, "ami-1")
        super().__init__(instance, address=address, ssh_user="admin", key_path=Path("no-key"))
        self.answers = answers
        self.nomad._session.mount("http://", Replay(answers.get("nomad", {}), instance_id))
        self.consul._session.mount("http://", Replay(answers.get("consul", {}), instance_id))

    def run(self, command: str, *, timeout: float = 60.0, check: bool = True, sudo: bool = False) -> CommandResult:
        return CommandResult(0, answer_of(self.instance_id, self.answers["run"][command]), "")


@dataclass(frozen=True)
class RecordedCluster:
    """A recording as the checks see a cluster; colocated, and in it all hosts that it knows."""

    servers: Sequence[RecordedHost]
    clients: Sequence[RecordedHost]
    answers: dict[str, Any]
    lacking: Sequence[str] = ()
    missing_hosts: Sequence[str] = ()

    @property
    def hosts(self) -> Sequence[Host]:
        return [*self.servers, *self.clients]

    @property
    def consul_servers(self) -> Sequence[Host]:
        return self.servers

    @property
    def nomad_servers(self) -> Sequence[Host]:
        return self.servers

    @property
    def nomad_clients(self) -> Sequence[Host]:
        return self.clients

    def missing_rules(self) -> Sequence[str]:
        return self.lacking

    def only(self, servers: int) -> RecordedCluster:
        """Forget all servers but the first ones, where the others had been stopped when it was recorded."""
        return RecordedCluster(self.servers[:servers], self.clients, self.answers)

    def with_answer(self, agent: str, path: str, body: Any) -> RecordedCluster:
        """Add what every host answers to a question that was not recorded."""
        self.answers.setdefault(agent, {})[path] = {"*": {"status": 200, "body": body}}
        return self

    @property
    def job(self) -> Job:
        """The job that was in Nomad when it was recorded."""
        bodies = [
            answer["body"]
            for path, by_host in self.answers["nomad"].items()
            for answer in by_host.values()
            if path.startswith("/v1/job/") and path.count("/") == 3
        ]
        return Job(self.servers[0].nomad, bodies[0])


def recorded(name: str, monkeypatch: pytest.MonkeyPatch | None = None) -> RecordedCluster:
    """Load a recording; with `monkeypatch`, its DNS answers too."""
    recording = json.loads((fixtures_dir() / "recorded" / f"{name}.json").read_text(encoding="utf-8"))
    answers: dict[str, Any] = recording["answers"]
    groups = {
        group: [RecordedHost(one, recording["hosts"][one], group, answers) for one in recording[group]]
        for group in ("servers", "clients")
    }
    cluster = RecordedCluster(groups["servers"], groups["clients"], answers)
    if monkeypatch is not None:
        instances = {host.address: host.instance_id for host in cluster.hosts}

        def ask(address: str, port: int, question: str, kind: str = "A", **_: Any) -> DnsAnswer:
            answer = answer_of(instances[address], answers["dns"][f"{kind} {question}"])
            return DnsAnswer(answer["code"], tuple(answer["values"]))

        monkeypatch.setattr(dns, "ask", ask)
    return cluster
