"""How the agents' APIs of one cluster are reached: scheme, port, CA, certificate and tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.cluster.clients.consul import ConsulClient
    from nomad_testkit.cluster.clients.nomad import NomadClient

CONSUL_HTTP_PORT = 8500
CONSUL_HTTPS_PORT = 8501
NOMAD_HTTP_PORT = 4646
"""Nomad speaks HTTPS on the same port."""


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """Plain HTTP without tokens, unless it is told otherwise.

    >>> ApiAccess().nomad_url("127.31.16.5")
    'http://127.31.16.5:4646'
    >>> ApiAccess(ca_path=Path("ca.pem")).consul_url("127.31.16.5")
    'https://127.31.16.5:8501'
    """

    ca_path: Path | None = None
    """The CA that the agents' certificates are of; None where they speak plain HTTP."""
    cert_paths: tuple[Path, Path] | None = None
    """A certificate and its key to show to agents that ask for one."""
    consul_token: str | None = field(default=None, repr=False)
    nomad_token: str | None = field(default=None, repr=False)

    def consul_url(self, address: str) -> str:
        """Give the URL of a Consul agent's API."""
        return f"https://{address}:{CONSUL_HTTPS_PORT}" if self.ca_path else f"http://{address}:{CONSUL_HTTP_PORT}"

    def nomad_url(self, address: str) -> str:
        """Give the URL of a Nomad agent's API."""
        return f"{'https' if self.ca_path else 'http'}://{address}:{NOMAD_HTTP_PORT}"

    def consul(self, address: str, **how: Any) -> ConsulClient:
        """Make a client of a Consul agent; `how` may have its `timeout`."""
        from nomad_testkit.cluster.clients.consul import ConsulClient

        return ConsulClient(self.consul_url(address), self.consul_token, **self._tls(), **how)

    def nomad(self, address: str) -> NomadClient:
        """Make a client of a Nomad agent."""
        from nomad_testkit.cluster.clients.nomad import NomadClient

        return NomadClient(self.nomad_url(address), self.nomad_token, **self._tls())

    def _tls(self) -> dict[str, Any]:
        if self.ca_path is None:
            return {}
        cert = (str(self.cert_paths[0]), str(self.cert_paths[1])) if self.cert_paths else None
        return {"verify": str(self.ca_path), "cert": cert}
