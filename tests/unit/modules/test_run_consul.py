"""run-consul: its options, Consul's configuration and unit, and the order of its work."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from consul_options import parse
from consul_tokens import Tokens
from fake_host import FakeHost
from host_commons import HostFault
from host_metadata import Metadata
from host_systemd import AgentPaths
from run_consul import joins_by_itself, main, render_config, render_service, retry_join, run

KEY = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
TOKEN = "6cdb7d0b-ab20-4d39-9a3c-6dd5ec2a01b5"
TAGS = ["--cluster-tag-key", "consul-servers", "--cluster-tag-value", "auto-join"]
RPC = [
    "--enable-rpc-encryption",
    "--ca-path",
    "/tls/ca",
    "--cert-file-path",
    "/tls/c",
    "--key-file-path",
    "/tls/k",
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --server and --client is required"),
        (["--server", "--client"], "--server and --client exclude each other"),
        (["--serv"], "unrecognized arguments: --serv"),
        (["--server", "extra"], "unrecognized arguments: extra"),
        (["--server", "--cluster-tag-key", "a"], "--cluster-tag-value belong together"),
        (["--server", "--cluster-tag-value", "a"], "--cluster-tag-value belong together"),
        (["--server", "--cluster-tag-key"], "argument --cluster-tag-key: expected one argument"),
        (
            ["--server", "--enable-gossip-encryption"],
            "--enable-gossip-encryption needs --gossip-encryption-key",
        ),
        (["--server", "--gossip-encryption-key", KEY], "would do nothing without --enable-gossip-encryption"),
        (
            ["--server", "--enable-gossip-encryption", "--gossip-encryption-key", "c2hvcnQ="],
            "argument --gossip-encryption-key: what was given has 5 bytes",
        ),
        (["--server", "--enable-rpc-encryption"], "needs --ca-path, --cert-file-path, --key-file-path too"),
        (["--server", *RPC[:5]], "--enable-rpc-encryption needs --key-file-path too"),
        (["--server", "--ca-path", "/tls"], "--ca-path: would do nothing without --enable-rpc-encryption"),
        (["--server", "--verify-server-hostname"], "--verify-server-hostname: would do nothing without"),
        (["--client", "--raft-multiplier", "1"], "--raft-multiplier: would do nothing with --client"),
        (
            ["--client", "--autopilot-max-trailing-logs", "0"],
            "--autopilot-max-trailing-logs: would do nothing with --client",
        ),
        (
            ["--client", "--autopilot-cleanup-dead-servers", "false"],
            "--autopilot-cleanup-dead-servers: would do nothing with --client",
        ),
        (
            ["--server", "--skip-consul-config", *TAGS],
            "--cluster-tag-key, --cluster-tag-value: would do nothing with --skip-consul-config",
        ),
        (
            ["--client", "--endpoint", "http://10.0.0.1"],
            "--endpoint would do nothing without --cluster-tag-key",
        ),
        (["--client", "--retry-interval", "5s"], "--retry-interval would do nothing without"),
        (["--server", "--environment", "PLAIN"], "argument --environment: there is no ="),
        (["--server", "--autopilot-last-contact-threshold", "200"], "'200' is refused; expected a duration"),
        (["--server", "--datacenter", "a b"], "argument --datacenter: 'a b' is refused"),
        (["--server", "--raft-multiplier", "0"], "'0' is refused; expected a whole number from 1 to 10"),
        (["--server", "--enable-https"], "--enable-https: would do nothing without --enable-rpc-encryption"),
        (["--server", *RPC, "--verify-https-client"], "--verify-https-client: would do nothing without --enable-https"),
        (["--client", "--acl-agent-token", TOKEN], "--acl-agent-token: would do nothing without --enable-acl"),
        (
            ["--client", "--enable-acl", "--acl-initial-management-token-file", "/f"],
            "--acl-initial-management-token-file: would do nothing with --client",
        ),
        (
            ["--server", "--enable-acl", "--acl-nomad-token", TOKEN],
            "--acl-nomad-token: would do nothing without --acl-initial-management-token",
        ),
        (
            ["--server", "--enable-acl", "--acl-agent-token", "short"],
            "argument --acl-agent-token: what was given has 5 characters; expected a UUID",
        ),
        (
            ["--server", "--enable-acl", "--acl-agent-token", TOKEN, "--acl-agent-token-file", "/f"],
            "--acl-agent-token and --acl-agent-token-file exclude each other",
        ),
        (
            ["--server", "--enable-gossip-encryption", "--gossip-encryption-key-file", "/nonexistent"],
            "argument --gossip-encryption-key-file: '/nonexistent' is refused: No such file or directory",
        ),
        (
            ["--server", "--skip-consul-config", "--enable-acl", "--enable-https"],
            "--enable-https, --enable-acl: would do nothing with --skip-consul-config",
        ),
    ],
)
def test_bad_options_end_with_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("usage: run-consul")
    assert message in said


def test_an_option_with_an_optional_value_swallows_no_other_option() -> None:
    options = parse(["--server", "--autopilot-disable-upgrade-migration", "--datacenter", "dc1"])
    assert options.autopilot_disable_upgrade_migration is True
    assert options.datacenter == "dc1"


def config(*arguments: str, expect: int | None = 3) -> dict[str, Any]:
    text = render_config(
        parse(arguments),
        instance_id="i-0123456789abcdef0",
        address="172.31.16.5",
        region="us-east-1",
        bootstrap_expect=expect,
    )
    loaded = json.loads(text)
    assert isinstance(loaded, dict)
    return loaded


def test_the_configuration_of_a_server() -> None:
    assert config("--server", *TAGS) == {
        "advertise_addr": "172.31.16.5",
        "bind_addr": "172.31.16.5",
        "client_addr": "0.0.0.0",
        "datacenter": "us-east-1",
        "node_name": "i-0123456789abcdef0",
        "server": True,
        "retry_join": ["provider=aws region=us-east-1 tag_key=consul-servers tag_value=auto-join"],
        "retry_interval": "2s",
        "bootstrap_expect": 3,
        "ui_config": {"enabled": True},
        "performance": {"raft_multiplier": 1},
        "autopilot": {
            "cleanup_dead_servers": True,
            "last_contact_threshold": "200ms",
            "max_trailing_logs": 250,
            "server_stabilization_time": "10s",
            "redundancy_zone_tag": "az",
            "disable_upgrade_migration": False,
        },
    }


def test_the_configuration_of_a_client() -> None:
    made = config("--client", *TAGS, "--endpoint", "http://10.0.0.1:5000/", expect=None)
    assert made["retry_join"] == [
        "provider=aws region=us-east-1 tag_key=consul-servers tag_value=auto-join endpoint=http://10.0.0.1:5000"
    ]
    assert made["server"] is False
    assert not {"bootstrap_expect", "ui_config", "autopilot", "performance", "telemetry"} & made.keys()


def test_every_other_option_reaches_the_configuration() -> None:
    made = config(
        *("--server", "--datacenter", "dc1", "--recursor", "10.0.0.2", "--recursor", "10.0.0.3:53"),
        *("--enable-gossip-encryption", "--gossip-encryption-key", KEY, *RPC, "--verify-server-hostname"),
        *("--autopilot-cleanup-dead-servers", "false", "--autopilot-last-contact-threshold", "1s"),
        *("--autopilot-max-trailing-logs", "0", "--autopilot-server-stabilization-time", "1m"),
        *("--autopilot-redundancy-zone-tag", "zone", "--autopilot-upgrade-version-tag", "v"),
        *("--autopilot-disable-upgrade-migration", "--raft-multiplier", "5"),
    )
    assert made["datacenter"] == "dc1"
    assert made["recursors"] == ["10.0.0.2", "10.0.0.3:53"]
    assert made["encrypt"] == KEY
    assert made["tls"] == {
        "defaults": {
            "ca_path": "/tls/ca",
            "cert_file": "/tls/c",
            "key_file": "/tls/k",
            "verify_incoming": True,
            "verify_outgoing": True,
        },
        "internal_rpc": {"verify_server_hostname": True},
        "https": {"verify_incoming": False},
    }
    assert "ports" not in made
    assert made["autopilot"] == {
        "cleanup_dead_servers": False,
        "last_contact_threshold": "1s",
        "max_trailing_logs": 0,
        "server_stabilization_time": "1m",
        "redundancy_zone_tag": "zone",
        "disable_upgrade_migration": True,
        "upgrade_version_tag": "v",
    }
    assert made["performance"] == {"raft_multiplier": 5}
    assert "retry_join" not in made


def test_an_api_for_tokens_and_certificates_alone() -> None:
    tokens = ["--acl-initial-management-token", TOKEN, "--acl-agent-token", TOKEN.replace("6", "7")]
    made = config("--server", *RPC, "--enable-https", "--verify-https-client", "--enable-acl", *tokens)
    assert made["ports"] == {"http": -1, "https": 8501}
    assert made["tls"]["https"] == {"verify_incoming": True}
    assert made["acl"] == {
        "enabled": True,
        "default_policy": "deny",
        "tokens": {"initial_management": TOKEN, "agent": TOKEN.replace("6", "7")},
    }
    assert config("--client", "--enable-acl", "--acl-default-token", TOKEN)["acl"]["tokens"] == {"default": TOKEN}


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "token").write_text(f"  {TOKEN.upper()}\n")
    made = config(
        *("--client", "--enable-gossip-encryption", "--gossip-encryption-key-file", f"{tmp_path}/key"),
        *("--enable-acl", "--acl-agent-token-file", f"{tmp_path}/token"),
    )
    assert made["encrypt"] == KEY
    assert made["acl"]["tokens"] == {"agent": TOKEN}


@pytest.mark.parametrize("content", [b"hunter2", b"", b"\xff\xfe"])
def test_what_a_file_holds_instead_of_a_secret_is_not_shown(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SystemExit):
        parse(["--client", "--enable-gossip-encryption", "--gossip-encryption-key-file", f"{tmp_path}/key"])
    said = capsys.readouterr().err
    assert f"argument --gossip-encryption-key-file: '{tmp_path}/key'" in said
    assert "hunter2" not in said


def test_tags_are_quoted_as_go_discover_reads_them() -> None:
    line = retry_join("role of it", 'a "b" \\ =c', "us-east-1", "")
    assert line == 'provider=aws region=us-east-1 tag_key="role of it" tag_value="a \\"b\\" \\\\ =c"'


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    for name in ("bin", "config", "data"):
        (tmp_path / "consul" / name).mkdir(parents=True)
    binary = tmp_path / "consul" / "bin" / "consul"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    return tmp_path / "consul"


class FakeMetadata(Metadata):
    def __init__(self) -> None:
        pass

    def instance_id(self) -> str:
        return "i-0123456789abcdef0"

    def private_address(self) -> str:
        return "172.31.16.5"

    def region(self) -> str:
        return "us-east-1"


def start(host: FakeHost, opt: Path, *arguments: str) -> None:
    run(parse(arguments), host, FakeMetadata(), str(opt / "bin" / "run-consul"))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_a_client_is_configured_validated_and_started(host: FakeHost, opt: Path) -> None:
    start(host, opt, "--client", *TAGS)
    written = opt / "config" / "default.json"
    assert json.loads(written.read_text())["server"] is False
    assert written.stat().st_mode & 0o777 == 0o640
    extra = f"{opt}/data.validate.json"
    assert host.commands == [
        f"{opt}/bin/consul validate {opt}/config {extra}",
        "systemctl show --property=ActiveState,SubState consul.service",
        "systemctl enable consul.service",
        "systemctl start consul.service",
    ]
    assert not Path(extra).exists()
    unit = (host.unit_dir / "consul.service").read_text()
    assert "Type=notify\nUser=consul\n" in unit
    assert f"ExecStart={opt}/bin/consul agent -config-dir {opt}/config -data-dir {opt}/data\n" in unit


def test_a_second_run_changes_nothing(host: FakeHost, opt: Path) -> None:
    start(host, opt, "--client", *TAGS)
    host.answers["systemctl show"] = (0, "ActiveState=active\nSubState=running")
    host.commands.clear()
    start(host, opt, "--client", *TAGS)
    assert not host.ran("systemctl start")
    assert not host.ran("systemctl restart")
    start(host, opt, "--client", *TAGS, "--datacenter", "other")
    assert host.ran("systemctl restart consul.service")


def test_a_refused_configuration_is_told_in_the_agents_words_and_nothing_starts(host: FakeHost, opt: Path) -> None:
    (opt / "config" / "telemetry.json").write_text('{"telemetry": {"disable_compat_1.9": true}}')
    host.answers[f"{opt}/bin/consul validate"] = (
        1,
        "failed to parse telemetry.json: invalid config key telemetry.disable_compat_1.9",
    )
    with pytest.raises(HostFault) as caught:
        start(host, opt, "--client", *TAGS)
    assert str(caught.value).startswith("consul.service is not started: `consul validate` refuses")
    assert "invalid config key telemetry.disable_compat_1.9" in str(caught.value)
    assert not host.ran("systemctl")


def test_a_host_without_consul_is_a_fault(host: FakeHost, opt: Path) -> None:
    (opt / "bin" / "consul").unlink()
    with pytest.raises(HostFault, match=r"there is no program .*/bin/consul: run install-consul"):
        start(host, opt, "--client", *TAGS)


def test_a_user_that_is_not_there_is_a_fault(host: FakeHost, opt: Path) -> None:
    with pytest.raises(HostFault, match="there is no user nobody-here"):
        start(host, opt, "--client", "--user", "nobody-here")


def test_a_configuration_of_others_is_left_alone(host: FakeHost, opt: Path) -> None:
    mine = opt / "config" / "mine.hcl"
    mine.write_text('retry_join = ["10.0.0.1"]')
    start(host, opt, "--client", "--skip-consul-config", "--environment", "CONSUL_HTTP_TOKEN=hidden")
    assert [path.name for path in (opt / "config").iterdir()] == ["mine.hcl"]
    unit = (host.unit_dir / "consul.service").read_text()
    assert "Type=notify" in unit
    assert f"EnvironmentFile={host.environment_dir}/run-consul\n" in unit
    assert "hidden" not in unit


def test_only_a_configuration_that_joins_makes_a_unit_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"server": true}')
    (tmp_path / "notes.txt").write_text("retry_join")
    assert not joins_by_itself(tmp_path)
    (tmp_path / "b.json").write_text('{"retry_join": ["10.0.0.1"]}')
    assert joins_by_itself(tmp_path)


def test_not_root_is_status_1(host: FakeHost) -> None:
    host.root = False
    assert main(["--client", *TAGS], host) == 1


def test_a_server_makes_the_tokens_that_it_was_given(
    host: FakeHost, opt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {name: TOKEN[:-1] + digit for name, digit in (("management", "1"), ("agent", "2"), ("nomad", "3"))}
    asked: list[object] = []
    monkeypatch.setattr(Tokens, "make", lambda _, management, wanted: asked.append((management, wanted)))
    monkeypatch.setattr(Tokens, "adopt", lambda _, secret: asked.append(secret))
    monkeypatch.setattr("run_consul.configure", lambda *_: True)
    options = ["--acl-initial-management-token", secrets["management"], "--acl-agent-token", secrets["agent"]]
    start(host, opt, "--server", *TAGS, "--enable-acl", *options, "--acl-nomad-token", secrets["nomad"])
    made = {"consul-agent": secrets["agent"], "nomad-agent": secrets["nomad"]}
    assert asked == [(secrets["management"], made), secrets["agent"]]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on this machine")
@pytest.mark.parametrize("joins", [True, False])
def test_systemd_finds_nothing_wrong_with_the_unit(host: FakeHost, opt: Path, joins: bool) -> None:
    outputs = ["--systemd-stdout", "journal", "--systemd-stderr", f"append:{opt}/err.log"]
    options = parse(["--client", "--user", "root", *outputs])
    place = AgentPaths(host, script=str(opt / "bin" / "run-consul"), agent="consul", options=options)
    path = host.unit_dir / "consul.service"
    environment = host.environment_dir / "run-consul"
    path.write_text(render_service(place, options, joins=joins, environment=environment))
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
