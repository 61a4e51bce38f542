"""The certificate authority of one cloud: it makes amazonaws.com names valid inside its hosts, and nowhere else."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Sequence

from nomad_testkit.ec2.vpc.certificates import CertificateAuthority

_DAYS = 2


class CloudCa(CertificateAuthority):
    """A certificate authority whose key never leaves this process.

    >>> CloudCa().cert_pem.splitlines()[0]
    '-----BEGIN CERTIFICATE-----'
    """

    def __init__(self) -> None:
        super().__init__("nomad_testkit cloud CA", days=_DAYS)

    def server_context(self, names: Sequence[str]) -> ssl.SSLContext:
        """Make a TLS server context with a certificate for these DNS names."""
        issued = self.issue(names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # ssl loads a key from files only. This one is readable by its owner alone, and gone with the block.
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(issued.cert_pem + issued.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context
