"""What an example demands of its agents in the table [security]: TLS, encrypted gossip, ACLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from nomad_testkit.errors import near_miss
from nomad_testkit.examples.variables import kind_of, refusal

SECRETS_FOLDER = "/etc/nomad-testkit"
"""Where user data finds the run's secrets on a host."""
_DATACENTER = re.compile(r"[A-Za-z0-9_-]{0,64}")


@dataclass(frozen=True, slots=True)
class Security:
    """What the user data of an example sets up on both agents; nothing, where example.toml has no [security].

    For each of the three, the run makes what it takes, brings it to the hosts, and uses it itself.
    """

    tls: bool = False
    """RPC by TLS, and HTTPS alone for the APIs."""
    gossip_encryption: bool = False
    acl: bool = False
    """ACLs that deny whatever no token allows."""
    consul_datacenter: str = ""
    """Consul's datacenter, which stands in its certificates; empty for the region, as run-consul has it."""

    @property
    def wanted(self) -> bool:
        """Whether there is anything to make."""
        return self.tls or self.gossip_encryption or self.acl

    @property
    def lacking(self) -> tuple[str, ...]:
        """Name what it leaves open."""
        return tuple(name for name in ("tls", "gossip_encryption", "acl") if not getattr(self, name))

    def check(self, file: Path, scripts: Mapping[str, bytes]) -> None:
        """Refuse user data, by the names of its groups, that would wait for what nobody makes. Raises ExampleError."""
        waiting = [group for group, data in scripts.items() if SECRETS_FOLDER.encode() in data]
        if waiting and not self.wanted:
            right = f"a table [security], for the user data of {', '.join(waiting)} refers to {SECRETS_FOLDER}"
            raise refusal(file, "security", "nothing that a run is to make", right)

    @classmethod
    def declared(cls, file: Path, table: dict[str, object]) -> Security:
        """Read the table. Raises ExampleError, which names the key, what was found and what would be right."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        for name, value in table.items():
            key = f"security.{name}"
            if name not in kinds:
                raise refusal(file, key, "a key that means nothing here", near_miss(name, kinds))
            if type(value) is not kinds[name]:
                raise refusal(file, key, kind_of(value), "a string" if kinds[name] is str else "true or false")
        security = cls(**table)  # type: ignore[arg-type]
        if not _DATACENTER.fullmatch(security.consul_datacenter):
            found = kind_of(security.consul_datacenter)
            raise refusal(file, "security.consul_datacenter", found, "at most 64 letters, digits, - and _")
        return security
