"""Snapshots as the agents' APIs give them, whole or damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile


def snapshot(state: bytes = b"state", *, sum_of: bytes = b"state", without: str = "", meta: bytes = b"{}") -> bytes:
    """Pack a snapshot: `sum_of` is what the state's sum is of, and the file `without` is left out."""
    sums = f"{hashlib.sha256(meta).hexdigest()}  meta.json\n{hashlib.sha256(sum_of).hexdigest()}  state.bin\n"
    files = {"meta.json": meta, "state.bin": state, "SHA256SUMS": sums.encode()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            if name != without:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue())
