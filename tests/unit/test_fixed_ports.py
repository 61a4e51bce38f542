"""An example that moves a port which agents and checks have fixed is refused; the error names the variable."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from nomad_testkit import Example
from nomad_testkit.checks.raft import RAFT_PORT
from nomad_testkit.cluster.host import CONSUL_DNS_PORT
from nomad_testkit.errors import ExampleError
from nomad_testkit.modules.consul_cluster import ConsulCluster
from nomad_testkit.modules.fixed_ports import FIXED_PORTS, fixed_port_fault
from nomad_testkit.modules.nomad_cluster import NomadCluster

GROUP = """
[groups.{name}]
module = "{module}-cluster"

[groups.{name}.inputs]
cluster_name = "{name}"
{sizes}
instance_type = "t3.micro"
allowed_inbound_cidr_blocks = "${{inbound_cidr_blocks}}"
# {name}
"""
NOMAD_SIZES = "min_size = 1\nmax_size = 1\ndesired_capacity = 1"
EXAMPLE = """
[variables.port]
type = "string"
default = ""

[roles]
consul_servers = ["consul"]
nomad_servers = ["nomad"]
nomad_clients = ["clients"]
""" + "".join(
    GROUP.format(name=name, module=module, sizes=sizes)
    for name, module, sizes in (
        ("consul", "consul", "cluster_size = 1"),
        ("nomad", "nomad", NOMAD_SIZES),
        ("clients", "nomad", NOMAD_SIZES),
    )
)
PORTS = {
    "consul": {"http_api_port": 8500, "server_rpc_port": 8300, "serf_lan_port": 8301, "dns_port": 8600},
    "nomad": {"http_port": 4646, "rpc_port": 4647, "serf_port": 4648},
    "clients": {"http_port": 4646},
}
REFUSED = [(group, key, port) for group, ports in PORTS.items() for key, port in ports.items()]
TAKEN = [
    *(("consul", key) for key in ("https_api_port", "cli_rpc_port", "serf_wan_port", "ssh_port")),
    *(("clients", key) for key in ("rpc_port", "serf_port", "ssh_port")),
    ("nomad", "ssh_port"),
]


def load(folder: Path, group: str, line: str) -> Example:
    (folder / "example.toml").write_text(EXAMPLE.replace(f"# {group}\n", f"{line}\n"))
    return Example.load(folder)


@pytest.mark.parametrize(("group", "key", "port"), REFUSED)
def test_a_port_that_nobody_would_have_is_refused(tmp_path: Path, group: str, key: str, port: int) -> None:
    load(tmp_path, group, f"{key} = {port}")
    with pytest.raises(ExampleError, match=rf"groups\.{group}\.inputs\.{key}: found 9500; expected {port}, "):
        load(tmp_path, group, f"{key} = 9500")


@pytest.mark.parametrize(("group", "key"), TAKEN)
def test_a_port_that_only_a_rule_has_is_taken(tmp_path: Path, group: str, key: str) -> None:
    (module,) = (one.module for one in load(tmp_path, group, f"{key} = 9500").render() if one.name == group)
    assert getattr(module, key) == 9500


@pytest.mark.parametrize(("tls", "key"), [(False, "http_api_port"), (True, "https_api_port")])
def test_with_tls_it_is_the_other_port_of_the_api(tmp_path: Path, tls: bool, key: str) -> None:
    (module,) = (one.module for one in load(tmp_path, "consul", "").render() if one.name == "consul")
    assert isinstance(module, ConsulCluster)
    both = replace(module, http_api_port=9500, https_api_port=9501)
    fault = fixed_port_fault(both, ["consul_servers"], tls=tls)
    assert fault is not None
    assert fault[0] == key


def test_each_variable_has_been_thought_of() -> None:
    known = {key for _, key, *_ in REFUSED} | {key for _, key in TAKEN}
    ports = {one.name for module in (ConsulCluster, NomadCluster) for one in fields(module)}
    assert {name for name in ports if name.endswith("_port")} - {"enable_https_port"} == known
    assert {one.variable for one in FIXED_PORTS} <= known


def test_checks_have_the_same_ports() -> None:
    ports = {one.variable: one.port for one in FIXED_PORTS}
    assert {"consul": ports["server_rpc_port"], "nomad": ports["rpc_port"]} == RAFT_PORT
    assert ports["dns_port"] == CONSUL_DNS_PORT


@pytest.mark.parametrize("key", ["http_port", "rpc_port", "serf_port"])
def test_a_variable_given_later_is_looked_at(tmp_path: Path, key: str) -> None:
    usual = next(one.port for one in FIXED_PORTS if one.variable == key)
    text = EXAMPLE.replace('type = "string"\ndefault = ""', f'type = "count"\ndefault = {usual}')
    text = text.replace("# nomad\n", f'{key} = "${{port}}"\n')
    (tmp_path / "example.toml").write_text(text)
    with pytest.raises(ExampleError, match=rf"inputs\.{key}: found 9500"):
        Example.load(tmp_path).replace(port=9500)
