"""Consul's names on a host, for programs that know nothing of Consul: by systemd-resolved and by dnsmasq."""

from __future__ import annotations

import json
import shlex

import pytest
from script_host import NOMAD, RUN_CONSUL, RUN_NOMAD, TAGS, ScriptHost

Pair = tuple[ScriptHost, ScriptHost]

JOB = {
    "ID": "web",
    "Datacenters": ["*"],
    "TaskGroups": [
        {
            "Name": "web",
            "Services": [{"Name": "web", "Provider": "consul"}],
            "Tasks": [{"Name": "web", "Driver": "raw_exec", "Config": {"command": "/bin/sleep", "args": ["3600"]}}],
        }
    ],
}


def resolved(host: ScriptHost, name: str) -> list[str]:
    """The addresses that a plain look-up gives; none where there is no such name."""
    lines = host.run(f"getent ahostsv4 {shlex.quote(name)} || true").splitlines()
    return sorted({line.split()[0] for line in lines})


@pytest.fixture
def with_service(fresh: Pair) -> Pair:
    """A cluster whose client, the second host, runs the service `web`."""
    server, client = fresh
    server.script(RUN_CONSUL, "--server", *TAGS)
    client.script(RUN_CONSUL, "--client", *TAGS)
    server.script(RUN_NOMAD, "--server", "--num-servers", "1")
    client.script(RUN_NOMAD, "--client", "--enable-raw-exec")
    server.write("/root/job.json", json.dumps({"Job": JOB}))
    server.get(f"{NOMAD}/v1/jobs", "-d", "@/root/job.json")
    return fresh


def test_a_jobs_service_resolves_by_plain_look_ups(with_service: Pair) -> None:
    server, client = with_service
    assert server.run("systemctl is-active systemd-resolved dnsmasq || true").split() == ["inactive", "inactive"]
    server.script("python3", f"{server.put_scripts()}/setup_systemd_resolved.py")
    client.script("python3", f"{client.put_scripts()}/install_dnsmasq.py", "--dns-server", "172.31.0.2")
    for host in (server, client):
        host.await_answer("the job's service", "getent hosts web.service.consul", client.private_ip)
        assert resolved(host, "consul.service.consul") == [server.private_ip]
        assert resolved(host, "no-such.service.consul") == []
        assert resolved(host, "ec2.us-east-1.amazonaws.com") == ["172.31.255.1"]
        assert resolved(host, f"ip-{host.private_ip.replace('.', '-')}.ec2.internal") == [host.private_ip]
        assert resolved(host, "example.com") == []
        assert host.run("systemctl --failed --no-legend") == ""

    said = server.refused("python3", "/root/kit/install_dnsmasq.py")
    assert "status=1" in said
    assert "systemd-resolved keeps /etc/resolv.conf on this host: use setup_systemd_resolved" in said

    # What an image's hosts have to do too: resolve after a boot, with nothing run again.
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = {host: host.run(boot).strip() for host in (server, client)}
    for host in before:
        host.api.reboot_instances(InstanceIds=[host.instance_id])
    for host, old in before.items():
        look = f"{boot} | grep -v {old} && getent hosts consul.service.consul"
        host.await_answer("Consul's name after a reboot", look, server.private_ip)
        assert resolved(host, "ec2.us-east-1.amazonaws.com") == ["172.31.255.1"]


@pytest.mark.parametrize("script", ["setup_systemd_resolved", "install_dnsmasq"])
def test_a_wrong_value_shows_usage(hosts: Pair, script: str) -> None:
    host, _ = hosts
    said = host.refused("python3", f"{host.put_scripts()}/{script}.py", "--consul-dns-port", "65536")
    assert "status=2" in said
    assert "argument --consul-dns-port: '65536' is refused; expected a whole number from 1 to 65535" in said
