"""What is true only of a cluster with TLS, encrypted gossip and ACLs, seen by someone who does not belong to it."""

from __future__ import annotations

import json
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit import Cluster, Host
from nomad_testkit.cluster.clients import ConsulClient, NomadClient
from nomad_testkit.cluster.clients.access import CONSUL_HTTP_PORT, CONSUL_HTTPS_PORT, NOMAD_HTTP_PORT
from nomad_testkit.cluster.secrets import CA, CONSUL_AGENT, CONSUL_NOMAD, KIT_CERT, KIT_KEY, RunSecrets, gossip_key
from nomad_testkit.ec2.vpc.certificates import CertificateAuthority
from nomad_testkit.errors import AgentApiError

pytestmark = pytest.mark.encrypted

TLS_ALERTS = (ssl.SSLError, ConnectionResetError)
INTRUDER = "intruder"
UNREADABLE = "No installed keys could decrypt the message"
"""What Serf says of a message by another key."""


@pytest.fixture(name="secrets")
def _secrets(nomad_cluster: Cluster) -> RunSecrets:
    assert nomad_cluster.secrets is not None
    return nomad_cluster.secrets


class Outsider:
    """Clients of one host's agents that are not the run's own."""

    def __init__(self, host: Host, verify: bool | Path, token: str | None = None) -> None:
        self._verify = str(verify) if isinstance(verify, Path) else verify
        self.consul = ConsulClient(f"https://{host.address}:{CONSUL_HTTPS_PORT}", token, verify=self._verify)
        self.nomad = NomadClient(f"https://{host.address}:{NOMAD_HTTP_PORT}", token, verify=self._verify)


def refusal(call: Callable[[], object]) -> AgentApiError:
    """Give the error with which a call is refused."""
    with pytest.raises(AgentApiError) as caught:
        call()
    return caught.value


# -- TLS


def test_plain_http_is_refused(nomad_cluster: Cluster) -> None:
    for host in nomad_cluster.hosts:
        off = refusal(lambda: ConsulClient(f"http://{host.address}:{CONSUL_HTTP_PORT}").get("/v1/status/leader"))  # noqa: B023
        assert off.status is None  # refused, or dropped where a security group has no such port
        for port in (CONSUL_HTTPS_PORT, NOMAD_HTTP_PORT):
            spoken = refusal(lambda: NomadClient(f"http://{host.address}:{port}").get("/v1/status/leader"))  # noqa: B023
            assert (spoken.status, spoken.message.strip()) == (400, "Client sent an HTTP request to an HTTPS server.")


def test_an_api_is_believed_by_the_runs_ca_alone(nomad_cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other-ca.pem"
    other.write_text(CertificateAuthority("another CA").cert_pem)
    for host in nomad_cluster.hosts:
        for verify in (other, True):  # True: whatever this machine trusts
            outsider = Outsider(host, verify)
            for call in (outsider.consul.leader, outsider.nomad.leader):
                error = refusal(call)
                assert error.status is None
                assert "certificate verify failed" in error.message
        assert host.consul.leader()
        assert host.nomad.leader()


@pytest.mark.parametrize(
    ("agent", "port", "speaks_tls"), [("consul", 8300, b"\x03"), ("nomad", 4647, b"\x04")], ids=["consul", "nomad"]
)
def test_rpc_takes_certificates_of_the_runs_ca_alone(
    agent: str, port: int, speaks_tls: bytes, nomad_cluster: Cluster, secrets: RunSecrets, tmp_path: Path
) -> None:
    """The first byte says what follows; for the values see RPCTLS in Consul's and RpcTLS in Nomad's `pool` package."""
    stranger = CertificateAuthority("another CA").issue([f"server.{nomad_cluster.target.region}.{agent}"])
    (tmp_path / "stranger.pem").write_text(stranger.cert_pem + stranger.key_pem)

    def shake_hands(host: Host, *certificate: str | Path) -> None:
        context = ssl.create_default_context(cafile=str(secrets.folder / CA))
        # From TLS 1.3 on, the client's part is done before the server has looked at its certificate.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if certificate:
            context.load_cert_chain(*map(str, certificate))
        with socket.create_connection((host.address, port), timeout=10) as connection:
            connection.sendall(speaks_tls)
            with context.wrap_socket(connection, server_hostname=host.address):
                pass

    for host in nomad_cluster.consul_servers if agent == "consul" else nomad_cluster.nomad_servers:
        ours = secrets.folder / KIT_CERT, secrets.folder / KIT_KEY
        if agent == "consul":
            shake_hands(host, *ours)
        else:
            # Nomad demands, besides, the name of an agent of its region in the certificate.
            with pytest.raises(TLS_ALERTS, match=r"(?i)bad.certificate"):
                shake_hands(host, *ours)
        with pytest.raises(TLS_ALERTS, match=r"(?i)unknown.ca|bad.certificate"):
            shake_hands(host, tmp_path / "stranger.pem")
        with pytest.raises(TLS_ALERTS, match=r"(?i)bad.certificate|certificate.required|handshake.failure"):
            shake_hands(host)


# -- gossip


@pytest.fixture(name="key", params=["another key", "no key"])
def _key(request: pytest.FixtureRequest) -> dict[str, str]:
    """Give what an agent that does not belong to the cluster has in its configuration."""
    return {"encrypt": gossip_key()} if request.param == "another key" else {}


def test_a_consul_agent_without_the_gossip_key_cannot_join(nomad_cluster: Cluster, key: dict[str, str]) -> None:
    host, address = nomad_cluster.clients[0], f"{nomad_cluster.consul_servers[0].private_ip}:8301"
    config = {
        "node_name": INTRUDER,
        "datacenter": nomad_cluster.consul.agent()["Config"]["Datacenter"],
        "bind_addr": host.private_ip,
        "ports": {"serf_lan": 18301, **dict.fromkeys(("http", "https", "dns", "grpc", "grpc_tls"), -1)},
        "retry_join": [address],
        "retry_max": 1,
        "retry_interval": "1s",
        **key,
    }
    said = run_until_it_gives_up(host, "/opt/consul/bin/consul agent -config-file", config)
    assert f"Failed to join {address}: {UNREADABLE if key else ''}" in said
    for server in nomad_cluster.consul_servers:
        assert INTRUDER not in {member["Name"] for member in server.consul.members()}


def test_a_nomad_server_without_the_gossip_key_cannot_join(nomad_cluster: Cluster, key: dict[str, str]) -> None:
    host, address = nomad_cluster.clients[0], f"{nomad_cluster.nomad_servers[0].private_ip}:4648"
    region = nomad_cluster.nomad.agent()["config"]["Region"]
    join = {"retry_join": [address], "retry_max": 1, "retry_interval": "1s"}
    config = {
        "name": INTRUDER,
        "region": region,
        "bind_addr": host.private_ip,
        "ports": {"http": 14646, "rpc": 14647, "serf": 14648},
        "consul": {"auto_advertise": False, "server_auto_join": False, "client_auto_join": False},
        "server": {"enabled": True, "bootstrap_expect": 3, "server_join": join, **key},
    }
    said = run_until_it_gives_up(host, "/opt/nomad/bin/nomad agent -config", config)
    assert f"Failed to join {address}: {UNREADABLE if key else ''}" in said
    for server in nomad_cluster.nomad_servers:
        assert f"{INTRUDER}.{region}" not in {member["Name"] for member in server.nomad.members()}


def run_until_it_gives_up(host: Host, command: str, config: Mapping[str, Any]) -> str:
    """Run one more agent on a host, and give what it said until it found nobody to join."""
    folder = f"/run/{INTRUDER}-{uuid.uuid4().hex[:8]}"
    host.run(f"mkdir -m 0700 {folder}", sudo=True)
    try:
        host.put(json.dumps(config), f"{folder}/config.json", mode=0o600, sudo=True)
        line = f"timeout 60 {command} {folder}/config.json -data-dir {folder}/data"
        done = host.run(line, sudo=True, check=False, timeout=90)
    finally:
        host.run(f"rm -rf {folder}", sudo=True)
    assert done.status == 1, f"status {done.status}: {done.stdout[-2000:]}{done.stderr[-500:]}"
    return done.stdout


# -- ACLs


def denied(calls: Sequence[Callable[[], object]]) -> list[int | None]:
    """Give the statuses with which calls are refused."""
    return [refusal(call).status for call in calls]


@pytest.mark.parametrize("token", [None, str(uuid.UUID(int=0xDEAD))], ids=["anonymous", "made up"])
def test_who_has_no_token_is_denied(token: str | None, nomad_cluster: Cluster, secrets: RunSecrets) -> None:
    for host in nomad_cluster.hosts:
        outsider = Outsider(host, secrets.folder / CA, token)
        consul, nomad = outsider.consul, outsider.nomad
        reading: list[Callable[[], object]] = [
            consul.agent,
            lambda consul=consul: consul.get_key("secret"),  # type: ignore[misc]
            lambda consul=consul: consul.get("/v1/acl/tokens"),  # type: ignore[misc]
            nomad.agent,
            nomad.members,
            nomad.nodes,
            lambda nomad=nomad: nomad.get("/v1/jobs"),  # type: ignore[misc]
            lambda nomad=nomad: nomad.get("/v1/acl/tokens"),  # type: ignore[misc]
        ]
        writing: list[Callable[[], object]] = [
            lambda consul=consul: consul.put_key("secret", "mine"),  # type: ignore[misc]
            lambda nomad=nomad: nomad.deregister("job"),  # type: ignore[misc]
        ]
        assert set(denied([*reading, *writing])) == {403}


def test_who_has_no_token_learns_of_consul_what_dns_tells_anyone(nomad_cluster: Cluster, secrets: RunSecrets) -> None:
    anonymous = Outsider(nomad_cluster.consul_servers[0], secrets.folder / CA).consul
    assert {"consul", "nomad", "nomad-client"} <= set(anonymous.services())
    assert {node["Node"] for node in anonymous.nodes()} == {host.instance_id for host in nomad_cluster.hosts}


def test_the_runs_tokens_work(nomad_cluster: Cluster) -> None:
    for host in nomad_cluster.hosts:
        assert host.consul.agent()["Config"]["NodeName"] == host.instance_id
        assert host.nomad.agent()["config"]["ACL"]["Enabled"] is True
    assert nomad_cluster.consul.put_key("nomad-testkit/mine", "yes") is True
    assert nomad_cluster.consul.get_key("nomad-testkit/mine") == b"yes"
    nomad_cluster.consul.raw.kv.delete("nomad-testkit/mine")
    assert nomad_cluster.consul.get_key("nomad-testkit/mine") is None


def test_the_agents_own_tokens_let_them_do_no_more_than_they_have_to(
    nomad_cluster: Cluster, secrets: RunSecrets
) -> None:
    host = nomad_cluster.consul_servers[0]
    for name in (CONSUL_AGENT, CONSUL_NOMAD):
        consul = Outsider(host, secrets.folder / CA, secrets[name]).consul
        assert consul.nodes() != []
        assert denied([lambda: consul.put_key("x", "y"), lambda: consul.get("/v1/acl/tokens")]) == [403, 403]  # noqa: B023
