"""run-nomad: its options, Nomad's configuration and unit."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost, FakeMetadata, agent_folder, usage_of, verify_unit
from host_commons import HostFault
from host_systemd import AgentPaths
from nomad_agent import Agent
from nomad_options import parse
from run_nomad import main, render_config, render_service, run

from nomad_testkit.ec2.vpc.certificates import CertificateAuthority

FACTS = ("i-0123456789abcdef0", "172.31.16.5", "us-east-1", "us-east-1b")
ME = dict(zip(("instance_id", "address", "region", "zone"), FACTS, strict=True))
KEY = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
TOKEN = "6cdb7d0b-ab20-4d39-9a3c-6dd5ec2a01b5"
SERVER = "--server --num-servers 3"
TLS = "--enable-rpc-encryption --ca-file-path /tls/ca.pem --cert-file-path /tls/c.pem --key-file-path /tls/k.pem"
CONSUL = f"--consul-https --consul-ca-file-path /tls/consul.pem --consul-token {TOKEN}"
NOTHING = "would do nothing with"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "at least one of --server and --client is required"),
        ("--server", "--server needs --num-servers"),
        ("--client --num-servers 3", f"--num-servers: {NOTHING}out --server"),
        ("--server --num-servers 0", "argument --num-servers: '0' is refused; expected a whole number"),
        ("--server --num-servers -1", "--num-servers: '-1' is refused"),
        ("--server --num-servers", "argument --num-servers: expected one argument"),
        ("--client --cluster-tag-key a", "unrecognized arguments: --cluster-tag-key"),
        (f"{SERVER} --enable-raw-exec", f"--enable-raw-exec: {NOTHING}out"),
        (f"{SERVER} --skip-nomad-config", f"--num-servers: {NOTHING} --skip-nomad-config"),
        ("--client --consul-wait-seconds 300", "expected a whole number from 0 to 280"),
        (f"{SERVER} --node-class big", f"--node-class: {NOTHING}out --client"),
        ("--client --node-class a,b", "argument --node-class: 'a,b' is refused"),
        ("--client --datacenter ${x}", "argument --datacenter: '${x}' is refused"),
        ("--client --enable-gossip-encryption", f"--enable-gossip-encryption: {NOTHING}out --server"),
        (f"{SERVER} --enable-gossip-encryption", "needs --gossip-encryption-key or --gossip-encryption-key-file"),
        (f"{SERVER} --gossip-encryption-key {KEY}", f"{NOTHING}out --enable-gossip-encryption"),
        (f"{SERVER} --enable-rpc-encryption", "needs --ca-file-path, --cert-file-path, --key-file-path too"),
        (f"{SERVER} --enable-https", f"--enable-https: {NOTHING}out --enable-rpc-encryption"),
        (f"{SERVER} {TLS} --verify-https-client", f"--verify-https-client: {NOTHING}out --enable-https"),
        (f"{SERVER} --acl-bootstrap-token {TOKEN}", f"--acl-bootstrap-token: {NOTHING}out --enable-acl"),
        (f"--client --enable-acl --acl-bootstrap-token {TOKEN}", f"{NOTHING}out --server"),
        ("--client --consul-https", "--consul-https needs --consul-ca-file-path"),
        ("--client --consul-ca-file-path /c", f"--consul-ca-file-path: {NOTHING}out --consul-https"),
        (
            "--client --consul-https --consul-ca-file-path /c --consul-cert-file-path /c",
            "--consul-key-file-path belong together",
        ),
        ("--client --consul-address localhost", "expected a host and a port, such as 127.0.0.1:8500"),
        ("--client --consul-address localhost:65536", "expected a port from 1 to 65535"),
        ("--client --consul-token hunter2", "argument --consul-token: what was given has 7 characters"),
        (
            "--client --skip-nomad-config --consul-wait-seconds 0 --consul-token-file /f",
            f"--consul-token-file: {NOTHING} --skip-nomad-config and without a wait",
        ),
        (
            "--client --skip-nomad-config --enable-acl --datacenter a",
            f"--datacenter, --enable-acl: {NOTHING} --skip-nomad-config",
        ),
    ],
)
def test_bad_options_end_with_usage(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_of(parse, options, capsys)
    assert said.startswith("usage: run-nomad")
    assert message in said
    assert "hunter2" not in said


def config(options: str) -> str:
    return render_config(parse(options.split()), **ME)


def test_the_configuration_of_a_server() -> None:
    assert config(SERVER) == textwrap.dedent("""\
        datacenter = "us-east-1b"
        name = "i-0123456789abcdef0"
        region = "us-east-1"
        bind_addr = "0.0.0.0"

        advertise {
          http = "172.31.16.5"
          rpc = "172.31.16.5"
          serf = "172.31.16.5"
        }

        server {
          enabled = true
          bootstrap_expect = 3
        }

        consul {
          address = "127.0.0.1:8500"
        }
        """)


SECURE = (
    f"--enable-gossip-encryption --gossip-encryption-key {KEY} --enable-acl --enable-https --verify-server-hostname"
)
TLS_BLOCK = """tls {
  http = true
  rpc = true
  ca_file = "/tls/ca.pem"
  cert_file = "/tls/c.pem"
  key_file = "/tls/k.pem"
  verify_server_hostname = true
  verify_https_client = false
}
"""
CONSUL_BLOCK = f"""consul {{
  address = "127.0.0.1:8501"
  ssl = true
  ca_file = "/tls/consul.pem"
  token = "{TOKEN}"
}}
"""
PLAIN_CLIENT = "client {\n  enabled = true\n}\n"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--client", [PLAIN_CLIENT]),
        ("--client --enable-raw-exec", ['plugin "raw_exec" {\n  config {\n    enabled = true\n  }\n}\n']),
        (
            "--client --datacenter dc1 --node-class large",
            ['datacenter = "dc1"\n', 'client {\n  enabled = true\n  node_class = "large"\n}\n'],
        ),
        ("--client --consul-address 10.0.0.5:18500", ['address = "10.0.0.5:18500"']),
        ("--server --client --num-servers 1", ["server {", PLAIN_CLIENT]),
        (
            f"{SERVER} {TLS} {SECURE} {CONSUL}",
            [
                f'server {{\n  enabled = true\n  bootstrap_expect = 3\n  encrypt = "{KEY}"\n}}\n',
                TLS_BLOCK,
                CONSUL_BLOCK,
                "acl {\n  enabled = true\n}\n",
            ],
        ),
    ],
)
def test_what_options_put_into_the_configuration(options: str, parts: list[str]) -> None:
    made = config(options)
    for part in parts:
        assert part in made
    assert ("server {" in made, "raw_exec" in made) == ("--server" in options, "raw-exec" in options)
    assert made.count("datacenter = ") == 1


def test_a_value_that_would_be_an_expression_is_refused() -> None:
    with pytest.raises(HostFault, match="would be an expression"):
        render_config(parse(["--client"]), **{**ME, "zone": "${attr.zone}"})


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    return agent_folder(tmp_path, "nomad")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    made.owners["config"] = "nomad"
    return made


def start(host: FakeHost, opt: Path, options: str) -> str:
    run(parse(options.split()), host, FakeMetadata(), str(opt / "bin" / "run-nomad"))
    return (host.unit_dir / "nomad.service").read_text()


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agent, "ready", lambda _: None)


@pytest.mark.usefixtures("ready")
def test_a_server_runs_as_the_user_and_waits_for_a_leader(host: FakeHost, opt: Path) -> None:
    unit = start(host, opt, SERVER)
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
def test_sudo_makes_a_server_root_too_and_the_wait_for_consul_can_be_left_out(host: FakeHost, opt: Path) -> None:
    assert "ExecStartPre" not in start(host, opt, "--client --consul-wait-seconds 0")
    assert "User=root\n" in start(host, opt, f"{SERVER} --use-sudo")


@pytest.mark.usefixtures("ready")
def test_the_wait_for_consul_is_told_how_to_reach_it(host: FakeHost, opt: Path, tmp_path: Path) -> None:
    for name in ("ca", "consul"):
        (tmp_path / f"{name}.pem").write_text(CertificateAuthority("test").cert_pem)
    options = f"--enable-https {TLS} {CONSUL}".replace("/tls/ca.pem", f"{tmp_path}/ca.pem")
    unit = start(host, opt, f"--client {options}".replace("/tls/consul.pem", f"{tmp_path}/consul.pem"))
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


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        ({"{}/bin/nomad config validate": "unexpected keys clint"}, "`nomad config validate` refuses .*keys clint"),
        (
            {"systemctl start": "Job for nomad.service failed", "journalctl": "error: waiting for a Consul leader"},
            "does not start.*waiting for a Consul leader",
        ),
    ],
)
def test_a_refused_configuration_and_a_wait_in_vain_are_told(
    host: FakeHost, opt: Path, answers: dict[str, str], match: str
) -> None:
    host.answers |= {command.format(opt): (1, text) for command, text in answers.items()}
    with pytest.raises(HostFault, match=f"(?s){match}"):
        start(host, opt, "--client")
    assert host.ran("systemctl") is ("journalctl" in answers)


def test_a_configuration_of_others_is_left_alone_and_not_asked_for_health(host: FakeHost, opt: Path) -> None:
    unit = start(host, opt, "--server --skip-nomad-config")
    assert list((opt / "config").iterdir()) == []
    assert "wait_for_consul.py leader" in unit


def test_not_root_is_status_1(host: FakeHost) -> None:
    host.root = False
    assert main(["--client"], host) == 1


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on this machine")
@pytest.mark.parametrize("options", ["--client --user root", SERVER])
def test_systemd_finds_nothing_wrong_with_the_unit(host: FakeHost, opt: Path, options: str) -> None:
    parsed: Any = parse(f"{options} --systemd-stdout journal".split())
    place = AgentPaths(host, script=str(opt / "bin" / "run-nomad"), agent="nomad", options=parsed)
    path = host.unit_dir / "nomad.service"
    environment, settings = host.environment_dir / "run-nomad", place.config_dir / "wait_for_consul.settings"
    path.write_text(render_service(place, parsed, user="root", environment=environment, settings=settings))
    assert verify_unit(path) == (0, "", "")
