"""The module nomad-cluster: an auto scaling group of Nomad servers or clients, each with a Consul client beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nomad_testkit.modules.cluster_variables import ClusterModule
from nomad_testkit.modules.security_group_rules import Port, consul_client_ports, nomad_ports


@dataclass(frozen=True, kw_only=True)
class NomadCluster(ClusterModule):
    """The variables of nomad-cluster, under upstream's names and with its defaults."""

    size_input: ClassVar[str] = "desired_capacity"
    security_groups_input: ClassVar[str] = "security_groups"

    min_size: int
    max_size: int
    desired_capacity: int
    cluster_tag_key: str = "nomad-servers"

    security_groups: tuple[str, ...] = ()
    http_port: int = 4646
    rpc_port: int = 4647
    serf_port: int = 4648

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.min_size, self.max_size, self.desired_capacity

    @property
    def ports(self) -> tuple[Port, ...]:
        # The Consul client beside every Nomad agent gossips with the others.
        return (
            *nomad_ports(http=self.http_port, rpc=self.rpc_port, serf=self.serf_port),
            *consul_client_ports(),
        )
