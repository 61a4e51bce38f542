"""The credentials of a cloud's maker: its own for each cloud, and never anybody's on AWS."""

from __future__ import annotations

import os
import secrets
import string
from dataclasses import dataclass, field
from pathlib import Path

SECRET_KEY = "secret-access-key"  # noqa: S105
"""The file in a cloud's folder that holds its secret access key; only root can read it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, as IAM forms it."""

    access_key_id: str
    secret_access_key: str = field(repr=False)

    @classmethod
    def generate(cls) -> Credentials:
        """Make new ones.

        >>> made = Credentials.generate()
        >>> made.access_key_id[:4], len(made.access_key_id), len(made.secret_access_key)
        ('AKIA', 20, 40)
        """
        alphabet = string.ascii_uppercase + "234567"
        key_id = "AKIA" + "".join(secrets.choice(alphabet) for _ in range(16))
        return cls(key_id, new_secret_key())

    @classmethod
    def read(cls, access_key_id: str, path: Path) -> Credentials:
        """Read the secret that `write` wrote. Raises OSError."""
        return cls(access_key_id, path.read_text())

    def write(self, path: Path) -> None:
        """Write the secret to a new file that only its owner can read."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.secret_access_key)

    def environment(self) -> dict[str, str]:
        """Give the variables by which every AWS SDK finds them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key_id, "AWS_SECRET_ACCESS_KEY": self.secret_access_key}


def new_secret_key(length: int = 40) -> str:
    """Make a secret access key that nobody can guess."""
    return "".join(secrets.choice(string.ascii_letters + string.digits + "+/") for _ in range(length))
