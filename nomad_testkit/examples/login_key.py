"""The private key with which hosts are logged in to, where it is the user's own."""

from __future__ import annotations

from pathlib import Path


def public_line(path: Path) -> str:
    """Give the public line of a private key's file, in OpenSSH's or PEM's form and without a passphrase.

    Raises OSError for a file that cannot be read, and ValueError, with what is wrong, for one that cannot be used.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    secret = path.read_bytes()
    opens_ssh = b"BEGIN OPENSSH PRIVATE KEY" in secret
    load = serialization.load_ssh_private_key if opens_ssh else serialization.load_pem_private_key
    try:
        public = load(secret, password=None).public_key()
        line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    except TypeError as error:  # what cryptography raises where a passphrase is needed
        raise ValueError("which is protected by a passphrase") from error
    except (ValueError, UnsupportedAlgorithm, AttributeError) as error:
        raise ValueError("which is no private key that SSH can use") from error
    return line.decode()
