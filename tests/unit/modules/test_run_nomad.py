"""run-nomad: its options, Nomad's configuration and unit."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost
from host_commons import HostFault
from host_metadata import Metadata
from host_systemd import AgentPaths
from nomad_agent import Agent
from nomad_options import parse
from run_nomad import main, render_config, render_service, run

from nomad_testkit.ec2.vpc.certificates import CertificateAuthority

ME = {
    "instance_id": "i-0123456789abcdef0",
    "address": "172.31.16.5",
    "region": "us-east-1",
    "zone": "us-east-1b",
}


KEY = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
TOKEN = "6cdb7d0b-ab20-4d39-9a3c-6dd5ec2a01b5"
SERVER = ["--server", "--num-servers", "3"]
TLS = [
    *("--enable-rpc-encryption", "--ca-file-path", "/tls/ca.pem"),
    *("--cert-file-path", "/tls/c.pem", "--key-file-path", "/tls/k.pem"),
]
CONSUL = ["--consul-https", "--consul-ca-file-path", "/tls/consul.pem", "--consul-token", TOKEN]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least one of --server and --client is required"),
        (["--server"], "--server needs --num-servers"),
        (["--client", "--num-servers", "3"], "--num-servers: would do nothing without --server"),
        (
            ["--server", "--num-servers", "0"],
            "argument --num-servers: '0' is refused; expected a whole number",
        ),
        (["--server", "--num-servers", "-1"], "--num-servers: '-1' is refused"),
        (["--server", "--num-servers"], "argument --num-servers: expected one argument"),
        (["--client", "--cluster-tag-key", "a"], "unrecognized arguments: --cluster-tag-key"),
        (
            ["--server", "--num-servers", "3", "--enable-raw-exec"],
            "--enable-raw-exec: would do nothing without",
        ),
        (
            ["--server", "--num-servers", "3", "--skip-nomad-config"],
            "--num-servers: would do nothing with --skip-nomad-config",
        ),
        (["--client", "--consul-wait-seconds", "300"], "expected a whole number from 0 to 280"),
        ([*SERVER, "--node-class", "big"], "--node-class: would do nothing without --client"),
        (["--client", "--node-class", "a b"], "argument --node-class: 'a b' is refused"),
        (["--client", "--datacenter", "${x}"], "argument --datacenter: '${x}' is refused"),
        (["--client", "--enable-gossip-encryption"], "--enable-gossip-encryption: would do nothing without --server"),
        ([*SERVER, "--enable-gossip-encryption"], "needs --gossip-encryption-key or --gossip-encryption-key-file"),
        ([*SERVER, "--gossip-encryption-key", KEY], "would do nothing without --enable-gossip-encryption"),
        ([*SERVER, "--enable-rpc-encryption"], "needs --ca-file-path, --cert-file-path, --key-file-path too"),
        ([*SERVER, "--enable-https"], "--enable-https: would do nothing without --enable-rpc-encryption"),
        ([*SERVER, *TLS, "--verify-https-client"], "--verify-https-client: would do nothing without --enable-https"),
        ([*SERVER, "--acl-bootstrap-token", TOKEN], "--acl-bootstrap-token: would do nothing without --enable-acl"),
        (["--client", "--enable-acl", "--acl-bootstrap-token", TOKEN], "would do nothing without --server"),
        (["--client", "--consul-https"], "--consul-https needs --consul-ca-file-path"),
        (["--client", "--consul-ca-file-path", "/c"], "--consul-ca-file-path: would do nothing without --consul-https"),
        (
            ["--client", "--consul-https", "--consul-ca-file-path", "/c", "--consul-cert-file-path", "/c"],
            "--consul-key-file-path belong together",
        ),
        (["--client", "--consul-address", "localhost"], "expected a host and a port, such as 127.0.0.1:8500"),
        (["--client", "--consul-address", "localhost:65536"], "expected a port from 1 to 65535"),
        (["--client", "--consul-token", "hunter2"], "argument --consul-token: what was given has 7 characters"),
        (
            ["--client", "--skip-nomad-config", "--consul-wait-seconds", "0", "--consul-token-file", "/f"],
            "--consul-token-file: would do nothing with --skip-nomad-config and without a wait",
        ),
        (
            ["--client", "--skip-nomad-config", "--enable-acl", "--datacenter", "a"],
            "--datacenter, --enable-acl: would do nothing with --skip-nomad-config",
        ),
    ],
)
def test_bad_options_end_with_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("usage: run-nomad")
    assert message in said
    assert "hunter2" not in said


def test_the_configuration_of_a_server() -> None:
    assert render_config(parse(["--server", "--num-servers", "3"]), **ME) == (
        'datacenter = "us-east-1b"\n'
        'name = "i-0123456789abcdef0"\n'
        'region = "us-east-1"\n'
        'bind_addr = "0.0.0.0"\n'
        "\n"
        "advertise {\n"
        '  http = "172.31.16.5"\n'
        '  rpc = "172.31.16.5"\n'
        '  serf = "172.31.16.5"\n'
        "}\n"
        "\n"
        "server {\n"
        "  enabled = true\n"
        "  bootstrap_expect = 3\n"
        "}\n"
        "\n"
        "consul {\n"
        '  address = "127.0.0.1:8500"\n'
        "}\n"
    )


def test_the_configuration_of_a_client() -> None:
    made = render_config(parse(["--client"]), **ME)
    assert "client {\n  enabled = true\n}\n" in made
    assert "server {" not in made
    assert "raw_exec" not in made


def test_raw_exec_is_a_plugin_of_the_client() -> None:
    made = render_config(parse(["--client", "--enable-raw-exec"]), **ME)
    assert 'plugin "raw_exec" {\n  config {\n    enabled = true\n  }\n}\n' in made


def test_where_it_is_and_what_class_it_has() -> None:
    made = render_config(parse(["--client", "--datacenter", "dc1", "--node-class", "large"]), **ME)
    assert made.startswith('datacenter = "dc1"\n')
    assert 'client {\n  enabled = true\n  node_class = "large"\n}\n' in made


def test_the_configuration_of_a_secure_server() -> None:
    options = ["--enable-gossip-encryption", "--gossip-encryption-key", KEY, "--enable-acl", "--enable-https"]
    made = render_config(parse([*SERVER, *TLS, *options, "--verify-server-hostname", *CONSUL]), **ME)
    assert f'server {{\n  enabled = true\n  bootstrap_expect = 3\n  encrypt = "{KEY}"\n}}\n' in made
    assert (
        "tls {\n"
        "  http = true\n"
        "  rpc = true\n"
        '  ca_file = "/tls/ca.pem"\n'
        '  cert_file = "/tls/c.pem"\n'
        '  key_file = "/tls/k.pem"\n'
        "  verify_server_hostname = true\n"
        "  verify_https_client = false\n"
        "}\n"
    ) in made
    assert "acl {\n  enabled = true\n}\n" in made
    assert made.endswith(
        "consul {\n"
        '  address = "127.0.0.1:8501"\n'
        "  ssl = true\n"
        '  ca_file = "/tls/consul.pem"\n'
        f'  token = "{TOKEN}"\n'
        "}\n"
    )


def test_consul_can_be_elsewhere() -> None:
    assert 'address = "10.0.0.5:18500"' in render_config(
        parse(["--client", "--consul-address", "10.0.0.5:18500"]), **ME
    )


def test_an_agent_can_be_both() -> None:
    made = render_config(parse(["--server", "--client", "--num-servers", "1"]), **ME)
    assert "server {" in made
    assert "client {" in made


def test_a_value_that_would_be_an_expression_is_refused() -> None:
    with pytest.raises(HostFault, match="would be an expression"):
        render_config(parse(["--client"]), **{**ME, "zone": "${attr.zone}"})


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    for name in ("bin", "config", "data"):
        (tmp_path / "nomad" / name).mkdir(parents=True)
    binary = tmp_path / "nomad" / "bin" / "nomad"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    return tmp_path / "nomad"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    made.owners["config"] = "nomad"
    return made


class FakeMetadata(Metadata):
    def __init__(self) -> None:
        pass

    def instance_id(self) -> str:
        return ME["instance_id"]

    def private_address(self) -> str:
        return ME["address"]

    def region(self) -> str:
        return ME["region"]

    def availability_zone(self) -> str:
        return ME["zone"]


def start(host: FakeHost, opt: Path, *arguments: str) -> str:
    run(parse(arguments), host, FakeMetadata(), str(opt / "bin" / "run-nomad"))
    return (host.unit_dir / "nomad.service").read_text()


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agent, "ready", lambda _: None)


@pytest.mark.usefixtures("ready")
def test_a_server_runs_as_the_user_and_waits_for_a_leader(host: FakeHost, opt: Path) -> None:
    unit = start(host, opt, "--server", "--num-servers", "3")
    assert "User=nomad\n" in unit
    assert "wait_for_consul.py leader 240\n" in unit
    assert "TimeoutStartSec=270s\n" in unit
    assert "TasksMax" not in unit
    written = opt / "config" / "default.hcl"
    assert written.stat().st_mode & 0o777 == 0o640
    assert host.owners["default.hcl.new"] == "nomad"
    assert host.commands == [
        f"{opt}/bin/nomad config validate {opt}/config {opt}/data.validate.json",
        "systemctl show --property=ActiveState,SubState nomad.service",
        "systemctl enable nomad.service",
        "systemctl start nomad.service",
    ]


@pytest.mark.usefixtures("ready")
def test_a_client_runs_as_root_and_waits_for_a_server(host: FakeHost, opt: Path) -> None:
    unit = start(host, opt, "--client")
    assert "User=root\n" in unit
    assert "wait_for_consul.py nomad 240\n" in unit
    assert "TasksMax=infinity\n" in unit
    assert f"ExecStart={opt}/bin/nomad agent -config {opt}/config -data-dir {opt}/data\n" in unit


@pytest.mark.usefixtures("ready")
def test_sudo_makes_a_server_root_too(host: FakeHost, opt: Path) -> None:
    assert "User=root\n" in start(host, opt, "--server", "--num-servers", "3", "--use-sudo")


@pytest.mark.usefixtures("ready")
def test_the_wait_for_consul_is_told_how_to_reach_it(host: FakeHost, opt: Path, tmp_path: Path) -> None:
    tls = ["--ca-file-path", f"{tmp_path}/ca.pem", "--cert-file-path", "/c.pem", "--key-file-path", "/k.pem"]
    certificate = CertificateAuthority("test", days=1).cert_pem
    (tmp_path / "ca.pem").write_text(certificate)
    (tmp_path / "consul.pem").write_text(certificate)
    consul = ["--consul-https", "--consul-ca-file-path", f"{tmp_path}/consul.pem", "--consul-token", TOKEN]
    unit = start(host, opt, "--client", "--enable-rpc-encryption", "--enable-https", *tls, *consul)
    written = opt / "config" / "wait_for_consul.settings"
    assert f"wait_for_consul.py nomad 240 {written}\n" in unit
    assert TOKEN not in unit
    assert written.stat().st_mode & 0o777 == 0o640
    assert host.owners["wait_for_consul.settings.new"] == "nomad"
    assert json.loads(written.read_text()) == {
        "consul": {
            "address": ["127.0.0.1", 8501],
            "token": TOKEN,
            "tls": {"ca_file": f"{tmp_path}/consul.pem", "cert_file": "", "key_file": ""},
        },
        "nomad": {"tls": {"ca_file": f"{tmp_path}/ca.pem", "server_name": "server.us-east-1.nomad"}},
    }
    assert "settings" not in start(host, opt, "--client")
    assert not written.exists()


@pytest.mark.usefixtures("ready")
def test_the_wait_for_consul_can_be_left_out(host: FakeHost, opt: Path) -> None:
    assert "ExecStartPre" not in start(host, opt, "--client", "--consul-wait-seconds", "0")


def test_a_refused_configuration_is_told_in_the_agents_words_and_nothing_starts(host: FakeHost, opt: Path) -> None:
    host.answers[f"{opt}/bin/nomad config validate"] = (1, "unexpected keys clint")
    with pytest.raises(HostFault, match=r"(?s)`nomad config validate` refuses .*unexpected keys clint"):
        start(host, opt, "--client")
    assert not host.ran("systemctl")


def test_a_wait_for_consul_in_vain_is_a_fault_with_the_journal(host: FakeHost, opt: Path) -> None:
    host.answers["systemctl start"] = (1, "Job for nomad.service failed because the control process exited")
    host.answers["journalctl"] = (0, "error: gave up after 240 s of waiting for a Consul leader")
    with pytest.raises(HostFault, match=r"(?s)does not start.*waiting for a Consul leader"):
        start(host, opt, "--client")


def test_a_configuration_of_others_is_left_alone_and_not_asked_for_health(host: FakeHost, opt: Path) -> None:
    unit = start(host, opt, "--server", "--skip-nomad-config")
    assert list((opt / "config").iterdir()) == []
    assert "wait_for_consul.py leader" in unit


def test_not_root_is_status_1(host: FakeHost) -> None:
    host.root = False
    assert main(["--client"], host) == 1


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on this machine")
@pytest.mark.parametrize("arguments", [["--client", "--user", "root"], ["--server", "--num-servers", "3"]])
def test_systemd_finds_nothing_wrong_with_the_unit(host: FakeHost, opt: Path, arguments: list[str]) -> None:
    options: Any = parse([*arguments, "--systemd-stdout", "journal"])
    place = AgentPaths(host, script=str(opt / "bin" / "run-nomad"), agent="nomad", options=options)
    path = host.unit_dir / "nomad.service"
    environment, settings = host.environment_dir / "run-nomad", place.config_dir / "wait_for_consul.settings"
    path.write_text(render_service(place, options, user="root", environment=environment, settings=settings))
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
