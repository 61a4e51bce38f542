"""A full disk, by one file that takes all that is free."""

from __future__ import annotations

import secrets
import shlex

from nomad_testkit.cluster import Cluster
from nomad_testkit.errors import FaultError, UsageError
from nomad_testkit.faults.fault import Fault, Repairs, on_host, own
from nomad_testkit.host import Host

MOST = 2**30
"""Bytes that are taken unless another limit is given: those of the embedded EC2 are this machine's memory."""


def fill_disk(cluster: Cluster, host: Host, folder: str, *, most: int) -> Fault:
    """Make the fault that fills the file system of a folder on a host with one file (`fallocate`).

    Raises FaultError, when it is used, where more than `most` bytes would be taken.
    """
    (host,) = own(cluster, [host])
    if not folder.startswith("/"):
        raise UsageError(f"the folder whose disk is to be filled has to begin with /, unlike {folder!r}")
    path = f"{folder.rstrip('/')}/nomad-testkit-fault-{secrets.token_hex(4)}"
    quoted = shlex.quote(path)

    def free() -> int:
        told = host.run(f"stat -f -c '%a %S' {shlex.quote(folder)}", sudo=True).stdout.split()
        return int(told[0]) * int(told[1])

    def remove() -> None:
        host.run(f"rm -f {quoted} && test ! -e {quoted}", sudo=True)

    def make(repairs: Repairs) -> None:
        available = free()
        if available > most:
            raise FaultError(
                f"{host}: {_mib(available)} are free in {folder}, and at most {_mib(most)} may be taken, which on the "
                "embedded EC2 are this machine's memory; give the example a smaller root_volume_size, name a folder "
                "with a file system of its own, or raise `most`"
            )
        repairs.add(f"remove {path} on {host}", on_host(cluster, host, remove))
        # fallocate refuses what does not fit as a whole; the last blocks are written, until there are no more.
        host.run(f"fallocate -l {max(available, 1)} {quoted} || true; cat /dev/zero >> {quoted} || true", sudo=True)
        if left := free():
            raise FaultError(f"{host}: {left} bytes are still free in {folder}")

    return Fault(f"fill the disk of {folder} on {host.instance_id}", make)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
