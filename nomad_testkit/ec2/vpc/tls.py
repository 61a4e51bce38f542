"""The certificate authority of one cloud: it makes amazonaws.com names valid inside its hosts, and nowhere else."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from nomad_testkit.ec2.vpc.certificates import CertificateAuthority


class CloudCa(CertificateAuthority):
    """A certificate authority whose key never leaves this process.

    >>> CloudCa().cert_pem.splitlines()[0]
    '-----BEGIN CERTIFICATE-----'
    """

    def __init__(self) -> None:
        super().__init__("nomad_testkit cloud CA")

    def server_context(self, names: Sequence[str]) -> ssl.SSLContext:
        """Make a TLS server context with a certificate for these DNS names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # ssl loads a key from files only: trustme's is readable by its owner alone, and gone afterwards.
        self.leaf(names).configure_cert(context)
        return context
