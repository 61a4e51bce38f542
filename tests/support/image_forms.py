"""A root folder in the forms in which images come: tar, OCI layout, disk."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path


def as_tar(root: Path, target: Path, *options: str) -> Path:
    command = ["tar", "--xattrs", "--xattrs-include=*", "--acls", *options, "-cf", str(target), "-C", str(root), "."]
    subprocess.run(command, check=True)
    return target


def as_oci(root: Path, target: Path, upper_names: Sequence[str] = ()) -> Path:
    """An OCI layout of two layers, the upper one with empty files."""
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return f"sha256:{digest}"

    lower = as_tar(root, target / "lower.tar.gz", "--gzip")
    upper = io.BytesIO()
    with tarfile.open(fileobj=upper, mode="w") as archive:
        for name in upper_names:
            archive.addfile(tarfile.TarInfo(name))
    layers = [{"digest": blob(lower.read_bytes())}, {"digest": blob(upper.getvalue())}]
    lower.unlink()
    manifest = blob(json.dumps({"layers": layers}).encode())
    (target / "index.json").write_text(json.dumps({"manifests": [{"digest": manifest}]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return target


def as_disk(root: Path, target: Path, mebibytes: int = 30) -> Path:
    """A disk with a GPT and one partition of ext4."""
    file_system = target.with_suffix(".ext4")
    subprocess.run(["truncate", "-s", f"{mebibytes}M", file_system], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-d", root, file_system], check=True)
    with target.open("wb") as disk:
        disk.truncate((mebibytes + 2) * 2**20)
    table = f"label: gpt\nstart=2048, size={mebibytes * 2048}, type=L\n"
    subprocess.run(["sfdisk", "-q", target], input=table, text=True, check=True)
    copy = ["dd", f"if={file_system}", f"of={target}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none"]
    subprocess.run(copy, check=True)
    file_system.unlink()
    return target
