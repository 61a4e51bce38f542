"""The module consul-cluster: an auto scaling group of Consul servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nomad_testkit.modules.cluster_variables import ClusterModule
from nomad_testkit.modules.iam_policies import POLICIES
from nomad_testkit.modules.security_group_rules import Port, consul_client_ports, consul_ports


@dataclass(frozen=True, kw_only=True)
class ConsulCluster(ClusterModule):
    """The variables of consul-cluster, under upstream's names and with its defaults."""

    policies: ClassVar[Mapping[str, str]] = POLICIES
    size_input: ClassVar[str] = "cluster_size"
    security_groups_input: ClassVar[str] = "additional_security_group_ids"

    cluster_size: int = 3
    cluster_tag_key: str = "consul-servers"

    additional_security_group_ids: tuple[str, ...] = ()

    server_rpc_port: int = 8300
    cli_rpc_port: int = 8400
    serf_lan_port: int = 8301
    serf_wan_port: int = 8302
    http_api_port: int = 8500
    https_api_port: int = 8501
    enable_https_port: bool = False
    dns_port: int = 8600

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.cluster_size, self.cluster_size, self.cluster_size

    @property
    def ports(self) -> tuple[Port, ...]:
        return (
            *consul_ports(
                server_rpc=self.server_rpc_port,
                cli_rpc=self.cli_rpc_port,
                serf_wan=self.serf_wan_port,
                http_api=self.http_api_port,
                https_api=self.https_api_port if self.enable_https_port else None,
                dns=self.dns_port,
            ),
            *consul_client_ports(serf_lan=self.serf_lan_port),
        )
