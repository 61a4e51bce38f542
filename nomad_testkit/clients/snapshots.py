"""Snapshots of the agents' servers: gzipped tars of a state, its metadata, and the SHA-256 sums of both."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib

from nomad_testkit.errors import UsageError

_SUMS = "SHA256SUMS"


def check_snapshot(snapshot: bytes, product: str) -> None:
    """Check that a snapshot is whole. Raises UsageError that says what is wrong with it."""
    right = f"right is what save_snapshot of a {product} client gave, whole and unchanged"
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(snapshot))) as archive:
            files = {one.name: file.read() for one in archive if (file := archive.extractfile(one)) is not None}
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UsageError(f"the snapshot of {len(snapshot)} bytes is damaged ({error}); {right}") from error
    told = files.get(_SUMS, b"").decode(errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in told)}
    if not {"meta.json", "state.bin"} <= sums.keys():
        raise UsageError(f"the snapshot has the files {sorted(files)}, and {_SUMS} tells of {sorted(sums)}; {right}")
    for name, wanted in sums.items():
        if hashlib.sha256(files.get(name, b"")).hexdigest() != wanted:
            raise UsageError(f"the snapshot is damaged: {name} has another SHA-256 sum than {_SUMS} tells; {right}")
