"""Certificate authorities that live for one cloud or for one run's cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trustme import LeafCert


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, both as PEM."""

    cert_pem: str
    key_pem: str = field(repr=False)


class CertificateAuthority:
    """A throw-away certificate authority, whose key never leaves this process.

    What it signs never expires: a cluster that is kept for weeks goes on to trust its new hosts. It ends with the
    process that holds the key. Any of its certificates is valid for TLS servers and clients, as agents need both.

    >>> CertificateAuthority("example CA").cert_pem.splitlines()[0]
    '-----BEGIN CERTIFICATE-----'
    """

    def __init__(self, name: str) -> None:
        import trustme

        self._ca = trustme.CA(path_length=0, organization_name=name)
        self.cert_pem = self._ca.cert_pem.bytes().decode()
        """What has to be trusted."""

    def leaf(self, names: Sequence[str], addresses: Sequence[str] = ()) -> LeafCert:
        """Issue a certificate for DNS names and IP addresses; the first name is its common name, too."""
        return self._ca.issue_cert(*names, *dict.fromkeys(addresses), common_name=names[0])

    def issue(self, names: Sequence[str], addresses: Sequence[str] = ()) -> Certificate:
        """Issue a certificate for DNS names and IP addresses, as PEM."""
        leaf = self.leaf(names, addresses)
        return Certificate(leaf.cert_chain_pems[0].bytes().decode(), leaf.private_key_pem.bytes().decode())
