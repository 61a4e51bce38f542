"""The root partition of a disk image, mounted to be read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.errors import UsageError

_SECTOR = 512
_SKIPPED = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "extended boot",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "swap",
    "ef": "EFI",
    "82": "swap",
}
"""Types of partitions that are not needed, by GUID or by the number of a DOS table."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A part of a disk, in bytes; `size` is 0 for all of it."""

    name: str
    offset: int
    size: int


@contextmanager
def root_of_disk(disk: Path, source: Path, work: Path) -> Iterator[Path]:
    """Mount the root file system of a raw disk, to be read, until the block ends. Raises UsageError.

    `source` is the file that errors name.
    """
    root = find_root(disk, source)
    folder = work / "mounted"
    folder.mkdir()
    limit = f",sizelimit={root.size}" if root.size else ""
    # noload: a journal that was left open is not replayed, which would write to the user's file.
    for more in (",noload", ",norecovery", ""):
        options = f"ro,nodev,nosuid,noexec,loop,offset={root.offset}{limit}{more}"
        done = subprocess.run(
            ["mount", "-o", options, str(disk), str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            break
    else:
        raise UsageError(
            f"{source}: its {root.name} cannot be mounted, for which this machine has to have loop devices: "
            f"{done.stderr.strip()}"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def find_root(disk: Path, source: Path) -> Volume:
    """Find the one partition that holds a file system of Linux. Raises UsageError, which lists what was found."""
    found = [(volume, _content(disk, volume.offset)) for volume in _volumes(disk)]
    listed = ", ".join(f"{volume.name} ({content or 'nothing known'})" for volume, content in found) or "none"
    for volume, content in found:
        if content in ("LUKS", "LVM"):
            what = "encrypted" if content == "LUKS" else "a volume group of LVM"
            raise UsageError(f"{source}: its {volume.name} is {what}; expected a plain file system for the root")
    roots = [volume for volume, content in found if content in ("ext4", "xfs", "btrfs")]
    if len(roots) != 1:
        raise UsageError(
            f"{source} has {len(roots)} partitions with a file system of Linux; expected one, the root, besides those "
            f"of EFI, boot and swap. Found: {listed}"
        )
    return roots[0]


def _volumes(disk: Path) -> list[Volume]:
    whole = Volume("file system", 0, 0)
    if _content(disk, 0):
        return [whole]
    done = subprocess.run(["sfdisk", "--json", str(disk)], capture_output=True, text=True, check=False)
    if done.returncode:
        return [whole]
    table = json.loads(done.stdout)["partitiontable"]
    sector = table.get("sectorsize", _SECTOR)
    return [
        Volume(f"partition {number}", part["start"] * sector, part["size"] * sector)
        for number, part in enumerate(table.get("partitions", ()), 1)
        if part["type"].lower() not in _SKIPPED
    ]


def _content(disk: Path, offset: int) -> str:
    """Name what begins at an offset by its magic number; empty for what is not known."""
    magics = (
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("LVM", 512, b"LABELONE"),
        ("ext4", 1024 + 56, b"\x53\xef"),
        ("xfs", 0, b"XFSB"),
        ("btrfs", 65536 + 64, b"_BHRfS_M"),
    )
    with disk.open("rb") as file:
        for name, place, magic in magics:
            file.seek(offset + place)
            if file.read(len(magic)) == magic:
                return name
    return ""
