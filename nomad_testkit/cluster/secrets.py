"""The secrets of one run's cluster: made for it, kept in its folder, different on every host where they can be.

The key of the CA is kept nowhere: when the process that deploys has ended, nobody can issue another certificate.
"""

from __future__ import annotations

import base64
import io
import os
import re
import secrets
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nomad_testkit.cluster.clients.access import ApiAccess
from nomad_testkit.errors import TestkitError

if TYPE_CHECKING:
    from nomad_testkit.ec2.vpc.certificates import CertificateAuthority
    from nomad_testkit.examples.example import Roles
    from nomad_testkit.examples.security import Security
    from nomad_testkit.modules.network import Instance

HIDDEN = "(hidden)"

CA = "ca.pem"
KIT_CERT, KIT_KEY = "kit.pem", "kit-key.pem"
CONSUL_GOSSIP, NOMAD_GOSSIP = "consul-gossip.key", "nomad-gossip.key"
CONSUL_MANAGEMENT, CONSUL_AGENT = "consul-management.token", "consul-agent.token"
CONSUL_DEFAULT, CONSUL_NOMAD = "consul-default.token", "consul-nomad.token"
NOMAD_MANAGEMENT = "nomad-management.token"

_GOSSIP_KEY_BYTES = 32  # the longest that Serf takes: AES-256
_PUBLIC = (CA, KIT_CERT)
_LEAST = 16
"""The shortest fragment of a secret that is worth redacting, in characters."""


_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


class Secret(str):
    """A text that hides itself wherever it is shown rather than used, such as in a traceback's variables.

    >>> {"token": Secret("b1gs33cr3t")}
    {'token': '(hidden)'}
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(HIDDEN)


_known: list[RunSecrets] = []
"""All that this process has made or read."""


@dataclass(frozen=True)
class RunSecrets:
    """The files of a run's folder ``secrets``, by name; only the one that made them can issue certificates.

    >>> secrets["nomad-management.token"]  # doctest: +SKIP
    '(hidden)'
    """

    folder: Path
    values: Mapping[str, Secret] = field(repr=False)
    _authority: CertificateAuthority | None = field(default=None, repr=False, compare=False)
    _datacenter: str = ""
    _region: str = ""

    def __post_init__(self) -> None:
        _known.append(self)

    @classmethod
    def create(cls, folder: Path, security: Security, *, region: str) -> RunSecrets:
        """Make what an example's [security] takes, into a new folder that only its owner can read.

        Raises TestkitError where it cannot be written.
        """
        authority = None
        values: dict[str, str] = {}
        if security.tls:
            from nomad_testkit.ec2.vpc.certificates import CertificateAuthority

            authority = CertificateAuthority("nomad_testkit cluster CA")
            kit = authority.issue(["nomad-testkit"])
            values |= {CA: authority.cert_pem, KIT_CERT: kit.cert_pem, KIT_KEY: kit.key_pem}
        if security.gossip_encryption:
            values |= {name: gossip_key() for name in (CONSUL_GOSSIP, NOMAD_GOSSIP)}
        if security.acl:
            tokens = (CONSUL_MANAGEMENT, CONSUL_AGENT, CONSUL_DEFAULT, CONSUL_NOMAD, NOMAD_MANAGEMENT)
            values |= {name: str(uuid.uuid4()) for name in tokens}
        try:
            folder.mkdir(mode=0o700)
            for name, value in values.items():
                _write(folder / name, value)
        except OSError as error:
            raise TestkitError(f"the run's secrets cannot be written: {error}") from error
        datacenter = security.consul_datacenter or region
        return cls(folder, {name: Secret(value) for name, value in values.items()}, authority, datacenter, region)

    @classmethod
    def load(cls, folder: Path) -> RunSecrets:
        """Read what another process made. Raises TestkitError where that cannot be read."""
        try:
            return cls(folder, {path.name: Secret(path.read_text()) for path in sorted(folder.iterdir())})
        except OSError as error:
            raise TestkitError(f"the run's secrets cannot be read: {error}") from error

    def __getitem__(self, name: str) -> Secret:
        return self.values[name]

    @cached_property
    def access(self) -> ApiAccess:
        """How this machine reaches the agents' APIs."""
        tls = CA in self.values
        return ApiAccess(
            ca_path=self.folder / CA if tls else None,
            cert_paths=(self.folder / KIT_CERT, self.folder / KIT_KEY) if tls else None,
            consul_token=self.values.get(CONSUL_MANAGEMENT),
            nomad_token=self.values.get(NOMAD_MANAGEMENT),
        )

    def environment(self) -> dict[str, str]:
        """Give what a shell has to export for the agents' own command lines: paths of files, and no secret.

        https://developer.hashicorp.com/nomad/docs/commands#environment-variables
        https://developer.hashicorp.com/consul/commands#environment-variables
        """
        names = {
            f"{agent}_{kind}": file
            for agent in ("NOMAD", "CONSUL")
            for kind, file in (("CACERT", CA), ("CLIENT_CERT", KIT_CERT), ("CLIENT_KEY", KIT_KEY))
        }
        names["CONSUL_HTTP_TOKEN_FILE"] = CONSUL_MANAGEMENT
        return {name: str(self.folder / file) for name, file in names.items() if file in self.values}

    def environment_files(self) -> dict[str, Path]:
        """Give the variables whose value stands in a file: Nomad reads its token from no file."""
        return {"NOMAD_TOKEN": self.folder / NOMAD_MANAGEMENT} if NOMAD_MANAGEMENT in self.values else {}

    def hide(self, text: str) -> str:
        """Hide every secret of the run in a text, each line of its keys, and every private key."""
        text = hide_private_keys(text)
        return self._known.sub(HIDDEN, text) if self._parts else text

    @cached_property
    def _parts(self) -> list[str]:
        secret = (value for name, value in self.values.items() if name not in _PUBLIC)
        lines = {line for value in secret for line in value.splitlines() if not line.startswith("-----")}
        return sorted((line for line in lines if len(line) >= _LEAST), key=len, reverse=True)

    @cached_property
    def _known(self) -> re.Pattern[str]:
        # pytest shortens what it shows of a long text to its beginning and its end, with dots between them.
        shortened = (rf"{re.escape(part[: _LEAST // 2])}[^\s'\"]*\.\.\.[^\s'\"]*" for part in self._parts)
        return re.compile("|".join([*map(re.escape, self._parts), *shortened]))

    # -- for a host

    def for_host(self, instance: Instance, address: str, roles: Roles) -> dict[str, Secret]:
        """Give the files that a host's agents need, and no more; its certificates are valid for this host alone.

        `address` is where this machine reaches it.
        """
        group = instance.group
        consul_server, nomad_server = group in roles.consul_servers, group in roles.nomad_servers
        wanted = {CA, CONSUL_GOSSIP, CONSUL_AGENT, CONSUL_DEFAULT, CONSUL_NOMAD}
        wanted |= {CONSUL_MANAGEMENT} if consul_server else set()
        wanted |= {NOMAD_GOSSIP, NOMAD_MANAGEMENT} if nomad_server else set()
        files = {name: value for name, value in self.values.items() if name in wanted}
        if CA in files:
            parts = [("server", nomad_server), ("client", group in roles.nomad_clients)]
            nomad = [f"{part}.{self._region}.nomad" for part, runs in parts if runs]
            consul = [f"{'server' if consul_server else 'client'}.{self._datacenter}.consul"]
            for agent, names in (("consul", consul), ("nomad", nomad)):
                files |= self._certificate(agent, names, instance, address) if names else {}
        return files

    def _certificate(self, agent: str, names: list[str], instance: Instance, address: str) -> dict[str, Secret]:
        if self._authority is None:
            raise TestkitError("only the process that deploys a cluster can issue certificates for its hosts")
        addresses = filter(None, ("127.0.0.1", instance.private_ip, instance.public_ip, address))
        issued = self._authority.issue([*names, "localhost"], list(addresses))
        return {f"{agent}.pem": Secret(issued.cert_pem), f"{agent}-key.pem": Secret(issued.key_pem)}


def hide_all(text: str) -> str:
    """Hide in a text the secrets of every run that this process has had to do with, and every private key."""
    for secrets_of_run in _known:
        text = secrets_of_run.hide(text)
    return hide_private_keys(text)


def hide_private_keys(text: str) -> str:
    """Hide what stands between the first and the last line of every private key.

    >>> hide_private_keys("-----BEGIN PRIVATE KEY-----\\nMIGH\\n-----END PRIVATE KEY-----")
    '-----BEGIN PRIVATE KEY-----(hidden)-----END PRIVATE KEY-----'
    """
    return _PRIVATE_KEY.sub(rf"\1{HIDDEN}\2", text)


def gossip_key() -> Secret:
    """Make a key for Serf's encryption, as `consul keygen` does."""
    return Secret(base64.b64encode(secrets.token_bytes(_GOSSIP_KEY_BYTES)).decode())


def archive(files: Mapping[str, str]) -> bytes:
    """Pack files, each readable by its owner alone, as tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
