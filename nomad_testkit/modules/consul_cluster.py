"""The module consul-cluster: an auto scaling group of Consul servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from nomad_testkit.modules.cluster_variables import ClusterModule
from nomad_testkit.modules.iam_policies import POLICIES
from nomad_testkit.modules.security_group_rules import Port, consul_client_ports, consul_ports


@dataclass(frozen=True, kw_only=True)
class ConsulCluster(ClusterModule):
    """The variables of consul-cluster, under upstream's names and with its defaults."""

    policies: ClassVar[Mapping[str, str]] = POLICIES

    cluster_size: int = 3
    cluster_tag_key: str = "consul-servers"

    allowed_ssh_security_group_ids: tuple[str, ...] = ()
    additional_security_group_ids: tuple[str, ...] = ()
    security_group_tags: Mapping[str, str] = field(default_factory=dict)

    server_rpc_port: int = 8300
    cli_rpc_port: int = 8400
    serf_lan_port: int = 8301
    serf_wan_port: int = 8302
    http_api_port: int = 8500
    https_api_port: int = 8501
    enable_https_port: bool = False
    dns_port: int = 8600

    enable_iam_setup: bool = True
    iam_instance_profile_name: str = ""
    """Used where `enable_iam_setup` is false."""

    def faults(self) -> Iterator[tuple[str, str, str]]:
        yield from super().faults()
        if self.enable_iam_setup == bool(self.iam_instance_profile_name):
            found = f"{self.iam_instance_profile_name!r} with enable_iam_setup = {str(self.enable_iam_setup).lower()}"
            yield (
                "iam_instance_profile_name",
                found,
                "a name where enable_iam_setup is false, and none where it is true",
            )

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

    @property
    def ssh_security_groups(self) -> tuple[str, ...]:
        return self.allowed_ssh_security_group_ids

    @property
    def more_security_groups(self) -> tuple[str, ...]:
        return self.additional_security_group_ids

    @property
    def security_group_labels(self) -> Mapping[str, str]:
        return self.security_group_tags

    @property
    def instance_profile(self) -> str:
        return "" if self.enable_iam_setup else self.iam_instance_profile_name
