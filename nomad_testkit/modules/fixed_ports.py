"""Port variables of the modules that have one value only: run-consul and run-nomad, and what a run asks, use that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nomad_testkit.modules.cluster_tables import Fault
from nomad_testkit.modules.cluster_variables import ClusterModule

Role = Literal["consul_servers", "nomad_servers", "nomad_clients"]
CONSUL_HTTP, CONSUL_HTTPS, NOMAD_HTTP = 8500, 8501, 4646
_ANY: tuple[Role, ...] = ("consul_servers", "nomad_servers", "nomad_clients")
_CONSUL: tuple[Role, ...] = ("consul_servers",)
_SERVERS: tuple[Role, ...] = ("nomad_servers",)


@dataclass(frozen=True, slots=True)
class FixedPort:
    """A variable, the value that it must have, what for, and the roles of groups where it matters."""

    variable: str
    port: int
    use: str
    roles: tuple[Role, ...]
    tls: bool | None = None
    """Whether it is for clusters with TLS, or without; None for both."""


_API = "at which readiness and checks ask the agent's API"
# cli_rpc_port and serf_wan_port are not here: no agent of one datacenter needs them, and nothing asks there.
FIXED_PORTS = (
    FixedPort("http_api_port", CONSUL_HTTP, _API, _ANY, tls=False),
    FixedPort("https_api_port", CONSUL_HTTPS, _API, _ANY, tls=True),
    FixedPort("http_port", NOMAD_HTTP, _API, _ANY),
    FixedPort("server_rpc_port", 8300, "at which checks look for Consul's Raft peers", _CONSUL),
    FixedPort("serf_lan_port", 8301, "at which all Consul agents gossip", _ANY),
    FixedPort("dns_port", 8600, "at which checks ask Consul's DNS", _ANY),
    FixedPort("rpc_port", 4647, "at which checks look for Nomad's Raft peers", _SERVERS),
    FixedPort("serf_port", 4648, "at which Nomad's servers gossip", _SERVERS),
)


def fixed_port_fault(module: ClusterModule, roles: Iterable[str], *, tls: bool) -> Fault | None:
    """Tell which port of a group no agent would listen at; None where all are as agents and checks have them."""
    has = set(roles)
    for one in FIXED_PORTS:
        found = getattr(module, one.variable, one.port)
        if found != one.port and has & set(one.roles) and one.tls in (None, tls):
            return one.variable, str(found), f"{one.port}, {one.use}: run-consul and run-nomad use it"
    return None
