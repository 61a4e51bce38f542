#!/usr/bin/env python3
"""Remove from this host whatever must not be in an image of it: identities, credentials and traces.

The last step before the image is made. Nobody can log in again before cloud-init has run on the image's first boot,
when every host makes its own keys and its own machine id; sessions that are open stay so.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from host_commons import log
from host_options import new_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GONE = (
    # SSH: the hosts' own keys, and the keys that were let in.
    "etc/ssh/ssh_host_*",
    "root/.ssh",
    "home/*/.ssh",
    # Credentials, and what was typed.
    "root/.aws",
    "home/*/.aws",
    "root/.*_history",
    "home/*/.*_history",
    "var/lib/systemd/credential.secret",
    # cloud-init's memory of this instance, and what it wrote for it: users, addresses of its network interface.
    "var/lib/cloud/data",
    "var/lib/cloud/handlers",
    "var/lib/cloud/instance",
    "var/lib/cloud/instances",
    "var/lib/cloud/scripts/per-*/*",
    "var/lib/cloud/sem",
    "etc/sudoers.d/90-cloud-init-users",
    "etc/netplan/50-cloud-init.yaml",
    "etc/network/interfaces.d/50-cloud-init*",
    "etc/udev/rules.d/70-persistent-net.rules",
    # Two hosts with the same seed could make the same keys.
    "var/lib/systemd/random-seed",
    "var/log/journal/*",
    "tmp/*",
    "var/tmp/*",
)
"""Below the root; systemd keeps folders of running services in the temporary ones, which are left."""


def doomed(root: Path) -> Iterator[Path]:
    """List what is there of it."""
    for pattern in GONE:
        for path in sorted(root.glob(pattern)):
            if not path.name.startswith("systemd-private-"):
                yield path


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; one that has just gone is no fault."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path), ignore_errors=True)
    else:
        try:
            path.unlink()
        except FileNotFoundError:
            return


def seal(root: Path) -> None:
    """Remove it all, in the file system that begins at `root`."""
    for path in doomed(root):
        remove(path)
    for folder, _, names in os.walk(str(root / "var/log")):
        for name in names:
            remove(Path(folder, name))
    # Empty, not absent: a host on a read-only root could not make it (machine-id(5)).
    (root / "etc/machine-id").write_text("")
    of_dbus = root / "var/lib/dbus/machine-id"
    if of_dbus.exists() and not of_dbus.is_symlink():
        of_dbus.unlink()


def main(arguments: Sequence[str] | None = None, root: Path = Path("/")) -> int:
    """Run the script; gives its exit status."""
    made = new_parser("seal-image", "Remove from this host what must not be in an image of it; then nobody can log in.")
    made.parse_args(arguments)
    try:
        seal(root)
    except OSError as error:
        log(f"error: {error.filename or 'this host'}: {error.strerror or error}; the script must be run by root")
        return 1
    os.sync()
    return 0


if __name__ == "__main__":
    sys.exit(main())
