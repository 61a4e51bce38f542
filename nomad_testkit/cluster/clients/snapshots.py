"""Snapshots of the agents' servers: gzipped tars of a state, its metadata, and the SHA-256 sums of both."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib

from nomad_testkit.errors import UsageError

_SUMS = "SHA256SUMS"
_RAFT_PORTS = {"consul": ":8300", "nomad": ":4647"}
"""By default. Both agents' snapshots have the same form: one that is given the other's ends, and does not come back."""


def check_snapshot(snapshot: bytes, product: str) -> None:
    """Check that a snapshot is whole, and not the other agent's. Raises UsageError that says what is wrong with it."""
    right = f"expected what save_snapshot of a {product} client gave, whole and unchanged"
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(snapshot)), mode="r:") as archive:
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
    meta = json.loads(files["meta.json"])
    servers = [str(one["Address"]) for one in meta.get("Configuration", {}).get("Servers") or ()]
    for other, port in _RAFT_PORTS.items():
        if other != product and servers and all(address.endswith(port) for address in servers):
            raise UsageError(f"the snapshot is one of {other}, of its servers {', '.join(servers)}; {right}")
