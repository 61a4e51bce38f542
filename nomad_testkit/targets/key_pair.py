"""The SSH key pair of a run."""

from __future__ import annotations

import os
from pathlib import Path


def write_key_pair(path: Path) -> str:
    """Generate an ed25519 key, write it to a new owner-only file, and return the public line.

    >>> public_key = write_key_pair(folder / "id_ed25519")  # doctest: +SKIP
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.decode()} nomad-testkit"
