"""The host scripts on real hosts: what each option does there, as the agents and the host itself tell it."""

from __future__ import annotations

import json
import shlex

import pytest
from script_host import CONSUL, NOMAD, RUN_CONSUL, RUN_NOMAD, TAGS, ScriptHost

from nomad_testkit.cluster.clients.dns import ask

Pair = tuple[ScriptHost, ScriptHost]

METADATA = "http://169.254.169.254/latest/meta-data/instance-id"


def places(agent: str) -> list[str]:
    """Options for a user and folders of one's own."""
    return ["--user", "hashi", "--config-dir", f"/srv/{agent}/config", "--data-dir", f"/srv/{agent}/data"]


def make_places(host: ScriptHost, agent: str) -> None:
    host.run(
        "id -u hashi >/dev/null 2>&1 || useradd --system --user-group hashi;"
        f" rm -rf /srv/{agent}; install -d -o hashi -g hashi -m 0750 /srv/{agent} /srv/{agent}/config"
    )


def own_program(host: ScriptHost, agent: str) -> str:
    """Copy an agent's program to a folder of one's own; gives the folder."""
    host.run(f"install -D -m 0755 /opt/{agent}/bin/{agent} /srv/bin/{agent}")
    return "/srv/bin"


def place_of(host: ScriptHost, agent: str, what: str) -> str:
    """Where an agent's ``exe`` or a descriptor such as ``fd/2`` leads to."""
    return host.run(f"readlink /proc/{process(host, agent)}/{what}").strip()


def process(host: ScriptHost, agent: str) -> str:
    """The id of an agent's process."""
    return host.run(f"systemctl show --value -p MainPID {agent}").strip()


def environment(host: ScriptHost, agent: str) -> list[str]:
    return host.run(f"cat /proc/{process(host, agent)}/environ").split("\0")


def test_every_option_of_a_consul_server(fresh: Pair) -> None:
    """On an instance that gives its metadata only to who has a token (IMDSv2)."""
    host, _ = fresh
    assert host.run(f"curl -s -o /dev/null -w '%{{http_code}}' {METADATA}") == "401"
    make_places(host, "consul")
    tricky = """it's a "b" $HOME `id` %n \\ end"""
    arguments = [
        *("--server", *TAGS, "--datacenter", "dc7", *places("consul"), "--bin-dir", own_program(host, "consul")),
        *("--systemd-stdout", "append:/var/log/consul.out", "--systemd-stderr", "append:/var/log/consul.err"),
        *("--environment", "GOMAXPROCS=1", "--environment", f"TRICKY={tricky}"),
        *("--recursor", "169.254.169.253", "--recursor", "172.31.0.2:53"),
        *("--autopilot-cleanup-dead-servers", "false", "--autopilot-last-contact-threshold", "1500ms"),
        *("--autopilot-max-trailing-logs", "123", "--autopilot-server-stabilization-time", "3s"),
        *("--autopilot-redundancy-zone-tag", "zone", "--autopilot-disable-upgrade-migration", "true"),
        *("--autopilot-upgrade-version-tag", "build", "--raft-multiplier", "2", "--retry-interval", "1s"),
        *("--endpoint", "http://172.31.255.1"),
    ]
    host.script(RUN_CONSUL, *arguments)
    host.await_answer("a leader", f"curl -s {CONSUL}/v1/status/leader", f"{host.private_ip}:8300")

    assert host.get(f"{CONSUL}/v1/operator/autopilot/configuration") == {
        **host.get(f"{CONSUL}/v1/operator/autopilot/configuration"),
        "CleanupDeadServers": False,
        "LastContactThreshold": "1.5s",
        "MaxTrailingLogs": 123,
        "ServerStabilizationTime": "3s",
        "RedundancyZoneTag": "zone",
        "DisableUpgradeMigration": True,
        "UpgradeVersionTag": "build",
    }
    agent = host.get(f"{CONSUL}/v1/agent/self")
    assert agent["Config"]["NodeName"] == host.instance_id
    assert (agent["Config"]["Datacenter"], agent["Config"]["Server"]) == ("dc7", True)
    assert agent["DebugConfig"]["DNSRecursors"] == ["169.254.169.253", "172.31.0.2:53"]
    assert agent["DebugConfig"]["DataDir"] == "/srv/consul/data"
    assert (agent["DebugConfig"]["Bootstrap"], agent["DebugConfig"]["RetryJoinIntervalLAN"]) == (True, "1s")

    assert ask(host.address, 8600, "consul.service.dc7.consul").values == (host.private_ip,)
    assert ask(host.address, 8600, "ec2.us-east-1.amazonaws.com").values == ("172.31.255.1",)
    assert host.run("ps -o user= -C consul").split() == ["hashi"]
    assert host.run("stat -c '%U %G %a' /srv/consul/config/default.json").split() == ["hashi", "hashi", "640"]
    assert host.run("ls -A /opt/consul/config /opt/consul/data | grep -v :") == "\n"
    assert "Starting Consul agent" in host.run("cat /var/log/consul.out")
    places_of = [place_of(host, "consul", what) for what in ("exe", "fd/1", "fd/2")]
    assert places_of == ["/srv/bin/consul", "/var/log/consul.out", "/var/log/consul.err"]
    assert host.run(f"journalctl -q --no-pager -o cat _PID={process(host, 'consul')}") == ""
    assert {"GOMAXPROCS=1", f"TRICKY={tricky}"} <= set(environment(host, "consul"))
    assert host.run("stat -c '%U %a' /etc/default/run-consul").split() == ["root", "600"]

    before = process(host, "consul")
    assert "runs already, with this configuration" in host.script(RUN_CONSUL, *arguments)
    assert process(host, "consul") == before


@pytest.fixture
def consul(fresh: Pair) -> Pair:
    """A Consul server and a client that has joined it."""
    server, client = fresh
    server.script(RUN_CONSUL, "--server", *TAGS)
    client.script(RUN_CONSUL, "--client", *TAGS)
    return fresh


def test_every_option_of_nomad(consul: Pair) -> None:
    server, client = consul
    make_places(server, "nomad")
    server.script(
        *(RUN_NOMAD, "--server", "--num-servers", "1", "--datacenter", "control", *places("nomad")),
        *(
            "--bin-dir",
            own_program(server, "nomad"),
            "--environment",
            "GOMAXPROCS=1",
            "--environment",
            "MOTTO=two words",
        ),
        *("--systemd-stdout", "append:/var/log/nomad.out", "--systemd-stderr", "append:/var/log/nomad.err"),
        *("--consul-address", "localhost:8500"),
    )
    client.script(
        *(RUN_NOMAD, "--client", "--datacenter", "batch", "--node-class", "large", "--enable-raw-exec"),
        *("--environment", "GOMAXPROCS=1"),
    )
    config = server.get(f"{NOMAD}/v1/agent/self")["config"]
    assert (config["Datacenter"], config["Region"], config["DataDir"]) == ("control", "us-east-1", "/srv/nomad/data")
    assert (config["Server"]["Enabled"], config["Server"]["BootstrapExpect"]) == (True, 1)
    assert (config["Client"]["Enabled"], config["Consul"]["Addr"]) == (False, "localhost:8500")
    # It may still be initializing when its agent's unit is active.
    server.await_answer("a ready node", f"curl -s {NOMAD}/v1/nodes", '"Status":"ready"')
    (node,) = server.get(f"{NOMAD}/v1/nodes")
    assert node["Name"] == client.instance_id
    assert (node["Datacenter"], node["NodeClass"]) == ("batch", "large")
    assert node["Drivers"]["raw_exec"]["Healthy"]

    assert server.run("ps -o user= -C nomad").split() == ["hashi"]
    assert set(client.run("ps -o user= -C nomad").split()) == {"root"}
    assert server.run("stat -c '%U %a' /srv/nomad/config/default.hcl").split() == ["hashi", "640"]
    assert {"GOMAXPROCS=1", "MOTTO=two words"} <= set(environment(server, "nomad"))
    assert "GOMAXPROCS=1" in environment(client, "nomad")
    places_of = [place_of(server, "nomad", what) for what in ("exe", "fd/1", "fd/2")]
    assert places_of == ["/srv/bin/nomad", "/var/log/nomad.out", "/var/log/nomad.err"]
    assert "nomad: adding server" in server.run("cat /var/log/nomad.out /var/log/nomad.err")

    server.script(RUN_NOMAD, "--server", "--num-servers", "1", "--use-sudo")
    assert server.run("ps -o user= -C nomad").split() == ["root"]
    zone = server.describe()["Placement"]["AvailabilityZone"]
    assert server.get(f"{NOMAD}/v1/agent/self")["config"]["Datacenter"] == zone


def test_a_configuration_of_ones_own_is_used_and_left_alone(fresh: Pair) -> None:
    host, _ = fresh
    consul = {
        "server": True,
        "bootstrap_expect": 1,
        "datacenter": "own",
        "bind_addr": host.private_ip,
        "performance": {"raft_multiplier": 1},
    }
    nomad = """
        datacenter = "own"
        bind_addr = "0.0.0.0"
        server {
          enabled = true
          bootstrap_expect = 1
        }
    """
    consul_file = host.write("/opt/consul/config/own.json", json.dumps(consul), owner="consul", mode=0o600)
    nomad_file = host.write("/opt/nomad/config/own.hcl", nomad, owner="nomad", mode=0o600)
    host.script(RUN_CONSUL, "--server", "--skip-consul-config")
    host.await_answer("a leader of Consul", f"curl -s {CONSUL}/v1/status/leader", ":8300")
    host.script(RUN_NOMAD, "--server", "--skip-nomad-config")
    host.await_answer("a leader of Nomad", f"curl -s {NOMAD}/v1/status/leader", ":4647")
    assert host.get(f"{CONSUL}/v1/agent/self")["Config"]["Datacenter"] == "own"
    assert host.get(f"{NOMAD}/v1/agent/self")["config"]["Datacenter"] == "own"
    assert host.run("ls /opt/consul/config/* /opt/nomad/config/*").split() == [consul_file, nomad_file]

    host.write(consul_file, json.dumps({**consul, "no_such_key": 1}), owner="consul")
    said = host.refused(RUN_CONSUL, "--server", "--skip-consul-config")
    assert "status=1" in said
    assert "invalid config key no_such_key" in said
    assert host.run("systemctl is-active consul").strip() == "active"


def test_a_server_without_its_tag_does_not_start_alone(fresh: Pair) -> None:
    _, untagged = fresh
    said = untagged.refused(RUN_CONSUL, "--server", *TAGS, "--tag-wait-seconds", "1")
    assert "status=1" in said
    assert (
        f"waiting for the tag {TAGS[1]}={TAGS[3]} and the group's size: {untagged.instance_id} has no such tag" in said
    )
    assert untagged.run("systemctl is-active consul || true").strip() == "inactive"
    assert "has no such tag" in untagged.run("journalctl -u consul -o cat --no-pager")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([RUN_CONSUL], "one of --server and --client is required"),
        ([RUN_CONSUL, "--server", "--client"], "--server and --client exclude each other"),
        ([RUN_CONSUL, "--server", "--bogus"], "unrecognized arguments: --bogus"),
        ([RUN_CONSUL, "--client", "--enable-https"], "--enable-https: would do nothing without --enable-rpc"),
        ([RUN_NOMAD, "--server"], "--server needs --num-servers"),
        ([RUN_NOMAD, "--client", "--consul-token-file", "/none"], "'/none' is refused: No such file"),
    ],
)
def test_a_wrong_call_shows_usage_and_changes_nothing(hosts: Pair, command: list[str], message: str) -> None:
    host, _ = hosts

    def look() -> str:
        return host.run("ls -lR --time-style=full-iso /opt/*/config /etc/systemd/system")

    before = look()
    said = host.refused(*command)
    assert "status=2" in said
    assert "usage: " in said
    assert message in said
    assert look() == before
    host.run("touch /opt/consul/config/planted")
    assert look() != before
    host.run("rm /opt/consul/config/planted")


@pytest.mark.parametrize("agent", ["consul", "nomad"])
def test_a_download_is_installed_only_when_it_is_the_right_one(hosts: Pair, agent: str) -> None:
    host, _ = hosts
    kit = host.put_scripts()
    pack = f"import zipfile; zipfile.ZipFile('{agent}.zip', 'w').write('/opt/{agent}/bin/{agent}', '{agent}')"
    serve = "systemd-run -q --unit=files python3 -m http.server -b 127.0.0.1 -d /root 8000"
    host.run(
        f"cd /root && python3 -c {shlex.quote(pack)} && (systemctl is-active -q files || {serve})"
        " && until curl -s -o /dev/null http://127.0.0.1:8000/; do :; done"
        " && rm -rf /srv/own && touch ca.pem && install -m 0600 /dev/null key.pem && touch cert.pem"
    )
    digest = host.run(f"sha256sum /root/{agent}.zip").split()[0]
    script = ["python3", f"{kit}/install_{agent}.py", "--path", "/srv/own", "--user", "owner"]
    url = f"http://127.0.0.1:8000/{agent}.zip"
    assert "needs --sha256" in host.refused(*script, "--download-url", url)
    wrong = host.refused(*script, "--download-url", url, "--sha256", "0" * 64)
    assert f"has the SHA-256 {digest}, but --sha256 says {'0' * 64}: nothing is installed" in wrong
    assert host.run("ls -d /srv/own || true") == ""
    tls = ["--ca-file-path", "/root/ca.pem", "--cert-file-path", "/root/cert.pem", "--key-file-path", "/root/key.pem"]
    host.script(*script, "--download-url", url, "--sha256", digest, *tls)
    found = host.run("cd /srv/own && stat -c '%n %U %a' bin config data tls/ca/ca.pem tls/key.pem")
    assert found.splitlines() == [
        *("bin owner 755", "config owner 755", "data owner 750", "tls/ca/ca.pem owner 644", "tls/key.pem owner 600")
    ]
    assert host.run("ls -A /srv/own/data") == ""
    assert host.run(f"readlink /usr/local/bin/{agent}").strip() == f"/srv/own/bin/{agent}"
    assert "usage: run-" in host.run(f"/srv/own/bin/run-{agent} --help")
    host.run(f"ln -sfn /opt/{agent}/bin/{agent} /usr/local/bin/{agent}; rm -rf /srv/own")
