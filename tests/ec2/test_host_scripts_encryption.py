"""Encryption and ACLs as the options of the host scripts make them, between two real hosts."""

from __future__ import annotations

import base64
import os
import shlex
import uuid
from collections.abc import Mapping

import pytest
from script_host import CONSUL as PLAIN_CONSUL
from script_host import RUN_CONSUL, RUN_NOMAD, TAGS, File, ScriptHost

from nomad_testkit.ec2.vpc.certificates import CertificateAuthority
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

Pair = tuple[ScriptHost, ScriptHost]

CONSUL, NOMAD = "https://127.0.0.1:8501", "https://127.0.0.1:4646"
FOLDER = "/etc/cluster"
CA = f"{FOLDER}/ca/ca.pem"
TOKENS = ("management", "agent", "default", "nomad", "bootstrap")

GOSSIP = ["--enable-gossip-encryption", "--gossip-encryption-key-file", f"{FOLDER}/consul-gossip"]
RPC = [
    *("--enable-rpc-encryption", "--ca-path", f"{FOLDER}/ca", "--verify-server-hostname"),
    *("--cert-file-path", f"{FOLDER}/consul.pem", "--key-file-path", f"{FOLDER}/consul-key.pem"),
]
ACL = [
    *("--enable-https", "--verify-https-client", "--enable-acl", "--acl-agent-token-file", f"{FOLDER}/agent"),
    *("--acl-default-token-file", f"{FOLDER}/default"),
]
SERVER_ACL = [
    *("--acl-initial-management-token-file", f"{FOLDER}/management"),
    *("--acl-nomad-token-file", f"{FOLDER}/nomad"),
]
NOMAD_TLS = [
    *("--enable-rpc-encryption", "--ca-file-path", CA, "--verify-server-hostname", "--enable-https"),
    *("--cert-file-path", f"{FOLDER}/nomad.pem", "--key-file-path", f"{FOLDER}/nomad-key.pem"),
    *("--verify-https-client", "--enable-acl"),
    *("--consul-https", "--consul-ca-file-path", CA, "--consul-token-file", f"{FOLDER}/nomad"),
    *("--consul-cert-file-path", f"{FOLDER}/nomad.pem", "--consul-key-file-path", f"{FOLDER}/nomad-key.pem"),
]
NOMAD_SERVER = [
    *("--enable-gossip-encryption", "--gossip-encryption-key-file", f"{FOLDER}/nomad-gossip"),
    *("--acl-bootstrap-token-file", f"{FOLDER}/bootstrap"),
]
CERTIFICATE = ["--cert", f"{FOLDER}/nomad.pem", "--key", f"{FOLDER}/nomad-key.pem"]


def gossip_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority("the tests' CA")


@pytest.fixture(scope="module")
def secrets() -> Mapping[str, str]:
    """What both hosts get, by the name of its file."""
    return {
        **{name: str(uuid.uuid4()) for name in TOKENS},
        **{name: gossip_key() for name in ("consul-gossip", "nomad-gossip")},
    }


def prepare(hosts: Pair, authority: CertificateAuthority, secrets: Mapping[str, str]) -> None:
    """Give two hosts, on which no agent runs then, certificates, keys and tokens."""
    for role, host in zip(("server", "client"), hosts, strict=True):
        host.reset()
        files = [File(CA, authority.cert_pem), *certificates(authority, role)]
        for name, secret in secrets.items():
            files.append(File(f"{FOLDER}/{name}", f"{secret}\n", mode=0o600))
            # For curl, since sudo writes command lines into the journal.
            headers = f"X-Consul-Token: {secret}\nX-Nomad-Token: {secret}\n"
            files.append(File(f"{FOLDER}/{name}.headers", headers, mode=0o600))
        host.run(f"rm -rf {FOLDER}")
        host.put_files(files)


def certificates(authority: CertificateAuthority, role: str) -> list[File]:
    """Make certificates for both agents of a host, as `consul tls cert create` and `nomad tls cert create` do."""
    files = []
    for agent, name in (("consul", f"{role}.us-east-1.consul"), ("nomad", f"{role}.us-east-1.nomad")):
        made = authority.issue([name, "localhost"], ["127.0.0.1"])
        files.append(File(f"{FOLDER}/{agent}.pem", made.cert_pem))
        files.append(File(f"{FOLDER}/{agent}-key.pem", made.key_pem, mode=0o600, owner=agent))
    return files


def members(host: ScriptHost) -> dict[str, int]:
    """The members of Consul that a host sees, and their states: 1 is alive."""
    return {member["Name"]: member["Status"] for member in host.get(f"{PLAIN_CONSUL}/v1/agent/members")}


def test_gossip_and_rpc_of_consul(hosts: Pair, authority: CertificateAuthority, secrets: Mapping[str, str]) -> None:
    server, client = hosts
    prepare(hosts, authority, secrets)
    server.script(RUN_CONSUL, "--server", *TAGS, *GOSSIP, *RPC)
    client.script(RUN_CONSUL, "--client", *TAGS, *GOSSIP, *RPC)
    both = {server.instance_id: 1, client.instance_id: 1}
    wait_until(
        "both to know both",
        lambda: Ok(None) if (seen := [members(server), members(client)]) == [both, both] else Pending(str(seen)),
        deadline=Deadline.after(120),
    )
    leader = f"curl -s {PLAIN_CONSUL}/v1/status/leader"
    client.await_answer("a leader", leader, f"{server.private_ip}:8300")

    # A certificate of the right CA, for another name than a server's, is none of a server.
    server.put_files(certificates(authority, "client"))
    server.run("systemctl restart consul")
    client.await_answer(
        "the refusal", f"{leader}; journalctl -u consul -n 20 -o cat", "certificate is valid for client."
    )
    server.put_files(certificates(authority, "server"))
    server.run("systemctl restart consul")
    client.await_answer("a leader", leader, f"{server.private_ip}:8300")

    # An agent with another key is kept out, and its unit does not become ready.
    client.reset()
    client.write(f"{FOLDER}/consul-gossip", gossip_key())
    client.start_script(RUN_CONSUL, "--client", *TAGS, *GOSSIP, *RPC)
    seen = "journalctl -u consul -n 50 -o cat"
    server.await_answer("the refusal", seen, "No installed keys could decrypt the message")
    assert client.run("systemctl show --value -p ActiveState consul").strip() == "activating"
    assert members(client) == {client.instance_id: 1}


@pytest.fixture(scope="module")
def secure(hosts: Pair, authority: CertificateAuthority, secrets: Mapping[str, str]) -> Pair:
    """A cluster with all that the options offer, whose agents start at the same moment."""
    server, client = hosts
    prepare(hosts, authority, secrets)
    run_consul = shlex.join([RUN_CONSUL, "--client", *TAGS, *GOSSIP, *RPC, *ACL])
    client.start_script("/bin/sh", "-c", f"{run_consul} && {shlex.join([RUN_NOMAD, '--client', *NOMAD_TLS])}")
    server.script(RUN_CONSUL, "--server", *TAGS, *GOSSIP, *RPC, *ACL, *SERVER_ACL)
    server.script(RUN_NOMAD, "--server", "--num-servers", "1", *NOMAD_TLS, *NOMAD_SERVER)
    client.await_script()
    return hosts


def with_token(name: str) -> list[str]:
    return ["--cacert", CA, *CERTIFICATE, "-H", f"@{FOLDER}/{name}.headers"]


def test_a_cluster_with_everything(secure: Pair, secrets: Mapping[str, str]) -> None:
    server, client = secure
    # Both agents know each other, and their tokens. A node may still be initializing when its agent's unit is active.
    nodes = f"curl -s {shlex.join(with_token('bootstrap'))} {NOMAD}/v1/nodes"
    server.await_answer("a ready node", nodes, '"Status":"ready"')
    (node,) = server.get(f"{NOMAD}/v1/nodes", *with_token("bootstrap"))
    assert node["Name"] == client.instance_id
    server.await_answer(
        "the client's registration",
        f"curl -s {' '.join(with_token('agent'))} {CONSUL}/v1/catalog/service/nomad-client",
        client.instance_id,
    )
    own = server.get(f"{NOMAD}/v1/acl/token/self", *with_token("bootstrap"))
    assert own["Type"] == "management"
    policies = {
        name: [one["Name"] for one in server.get(f"{CONSUL}/v1/acl/token/self", *with_token(name))["Policies"]]
        for name in ("management", "agent", "default", "nomad")
    }
    assert policies == {
        "management": ["global-management"],
        "agent": ["consul-agent"],
        "default": ["consul-default"],
        "nomad": ["nomad-agent"],
    }

    consul = server.get(f"{CONSUL}/v1/agent/self", *with_token("management"))["Stats"]["serf_lan"]["encrypted"]
    nomad = server.get(f"{NOMAD}/v1/agent/self", *with_token("bootstrap"))["stats"]["serf"]["encrypted"]
    assert (consul, nomad) == ("true", "true")

    # Nobody else gets anything: without a certificate, without a token, without TLS.
    ask = "curl -s -o /dev/null -w '%{http_code} %{exitcode}'"
    shown = " ".join(CERTIFICATE)
    for url in (f"{NOMAD}/v1/nodes", f"{CONSUL}/v1/acl/tokens"):
        assert server.run(f"{ask} --cacert {CA} {url} || true") in ("000 55", "000 56")  # it cannot send, or receive
        assert server.run(f"{ask} --cacert {CA} {shown} {url}") == "403 0"
        assert server.run(f"{ask} --cacert /etc/ssl/certs/ca-certificates.crt {shown} {url} || true") == "000 60"
    assert server.run(f"{ask} {PLAIN_CONSUL}/v1/status/leader || true") == "000 7"
    assert server.run(f"{ask} http://127.0.0.1:4646/v1/status/leader || true").split()[0] == "400"

    # What is secret is only where it has to be.
    for agent, name in (("consul", "default.json"), ("nomad", "default.hcl"), ("nomad", "wait_for_consul.settings")):
        found = server.run(f"stat -c '%U %G %a' /opt/{agent}/config/{name}").split()
        assert found == [agent, agent, "640"]
    for host in (server, client):
        shown = host.run(
            "journalctl -q --no-pager -o cat; cat /etc/systemd/system/*.service /var/log/*.log /var/log/cloud-init*;"
            " cat /proc/[0-9]*/cmdline | tr '\\0' ' '; systemctl show -p Environment nomad consul"
        )
        assert [name for name, secret in secrets.items() if secret in shown] == []


def test_the_scripts_may_run_again_and_refuse_another_first_token(secure: Pair) -> None:
    server, _ = secure
    again = [RUN_NOMAD, "--server", "--num-servers", "1", *NOMAD_TLS, *NOMAD_SERVER]
    assert "runs already" in server.script(RUN_CONSUL, "--server", *TAGS, *GOSSIP, *RPC, *ACL, *SERVER_ACL)
    assert "runs already" in server.script(*again)
    server.write("/root/another", str(uuid.uuid4()), mode=0o600)
    again[again.index(f"{FOLDER}/bootstrap")] = "/root/another"
    said = server.refused(*again)
    assert "status=1" in said
    assert "Nomad says 'ACL bootstrap already done (reset index: " in said
    assert "and does not know the token that was given" in said


def test_an_agent_by_another_authority_is_refused_at_once(secure: Pair) -> None:
    server, _ = secure
    another = server.write("/root/another.pem", CertificateAuthority("another CA").cert_pem)
    server.run(f"sed 's:{CA}:{another}:' /opt/nomad/config/wait_for_consul.settings > /root/settings")
    said = server.refused("python3", "/opt/nomad/bin/wait_for_consul.py", "leader", "100", "/root/settings")
    assert "status=1" in said
    assert "the certificate of https://127.0.0.1:8501 is refused: " in said
    assert f"expected one by {another}" in said
