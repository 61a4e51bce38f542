"""A full disk: one file takes all that is free, where that is much in a small file system of the folder's own."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError
from nomad_testkit.faults import arguments
from nomad_testkit.faults.agents import WITHIN, await_unit
from nomad_testkit.faults.fault import Fault, own
from nomad_testkit.faults.repairs import Repairs, Turn, undoes

MOST = 2**30
"""Bytes that are taken unless another limit is given: those of the embedded EC2 are this machine's."""
SLACK = 16 * 2**20
"""Bytes that a small file system has more than the folder needs, so that agents can start before it is full."""

_TRIES = 5
"""How often what an agent that runs frees meanwhile is taken."""

# Agents that have files open in the folder.
_USERS = """
for unit in consul nomad; do
  pid=$(systemctl show -p MainPID --value $unit)
  if [ "$pid" != 0 ] && find /proc/$pid/fd -lname "$folder/*" | grep -q .; then echo $unit; fi
done
"""
_LEND = """
set -e
mkdir -p "$under"
mount --bind "$folder" "$under"
mount --make-private "$under"
touch "$under.made"
for unit in $units; do systemctl stop $unit; done
mount -t tmpfs -o "size=$size" nomad-testkit-fault "$folder"
cp -ax "$under/." "$folder/"
for unit in $units; do systemctl start --no-block $unit; done
"""
# What was written meanwhile goes to the folder's own disk. Tasks that went on may have written there, too: that is
# newer than the fault, and stays.
_RETURN = """
set -e
if [ "$(findmnt -n -o SOURCE -M "$folder")" = nomad-testkit-fault ]; then
  rm -f "$file"
  for unit in $units; do systemctl stop $unit; done
  cd "$under"
  find . -xdev -depth ! -newer "$under.made" -print0 | while IFS= read -r -d '' one; do
    [ -e "$folder/$one" ] || [ -L "$folder/$one" ] || rm -df "$one"
  done
  cd /
  cp -axu "$folder/." "$under/"
  umount -R "$folder" || umount -R -l "$folder"
fi
for unit in $units; do systemctl reset-failed $unit; systemctl start --no-block $unit; done
if mountpoint -q "$under"; then umount -l "$under"; fi
rm -f "$under.made"
if [ -d "$under" ]; then rmdir "$under"; fi
"""


def fill_disk(cluster: Cluster, host: Host, folder: str, *, most: int) -> Fault:
    """Make the fault that fills the file system of a folder on a host with one file (`fallocate`).

    Where more than `most` bytes are free, the folder gets a small file system of its own first, in the host's memory,
    with a copy of what is in it; agents that have files open there are restarted, so that they write to it. In the end
    what they wrote is on the folder's own disk. Raises FaultError, when it is used, where that takes more than `most`.
    """
    (host,) = own(cluster, [host])
    folder, most = arguments.folder("folder", folder), arguments.whole("most", most, least=1, unit="bytes")
    token = secrets.token_hex(4)
    path, under = f"{folder.rstrip('/')}/nomad-testkit-fault-{token}", f"/run/nomad-testkit-fault-{token}"

    def make(repairs: Repairs) -> None:
        host.run(f"test -d {shlex.quote(folder)}")
        if (available := _free(host, folder)) > most:
            _lend(cluster, host, repairs, folder, under, path, available, most)
        repairs.plan(f"remove {path} on {host}", _remove, cluster, [host], path=path)
        quoted = shlex.quote(path)
        for _ in range(_TRIES):
            # fallocate refuses what does not fit as a whole; the last blocks are written, until there are no more.
            size = max(_free(host, folder), 1)
            host.run(
                f"test -e {quoted} || fallocate -l {size} {quoted} || true; cat /dev/zero >> {quoted} || true",
                sudo=True,
            )
            if not (left := _free(host, folder)):
                return
        raise FaultError(f"{host}: {left} bytes are still free in {folder}")

    return Fault(f"fill the disk of {folder} on {host.instance_id}", make)


def _lend(
    cluster: Cluster, host: Host, repairs: Repairs, folder: str, under: str, path: str, available: int, most: int
) -> None:
    """Give a folder a small file system of its own."""
    used = int(host.run(f"du -sxB1 {shlex.quote(folder)}", sudo=True).stdout.split()[0]) if folder != "/" else most
    if used + SLACK > most:
        raise FaultError(
            f"{host}: {_mib(available)} are free in {folder}, and at most {_mib(most)} may be taken, which on the "
            f"embedded EC2 are this machine's. Name a folder with less in it than {_mib(most - SLACK)}, such as an "
            "agent's data, which gets a small file system then, or raise `most`"
        )
    units = _script(host, _USERS, folder=folder).split()
    repairs.plan(
        f"give {folder} on {host} its own disk back",
        _return,
        cluster,
        [host],
        folder=folder,
        under=under,
        path=path,
        units=units,
    )
    _script(host, _LEND, folder=folder, under=under, units=" ".join(units), size=str(used + SLACK))
    for unit in units:
        await_unit(host, unit, ("active",))


@undoes("return disk", Turn.HOST)
def _return(cluster: Cluster, hosts: Sequence[Host], *, folder: str, under: str, path: str, units: list[str]) -> None:
    (host,) = hosts
    _script(host, _RETURN, folder=folder, under=under, file=path, units=" ".join(units))
    for unit in units:
        await_unit(host, unit, ("active", "activating"))


@undoes("remove file", Turn.HOST)
def _remove(cluster: Cluster, hosts: Sequence[Host], *, path: str) -> None:
    (host,) = hosts
    quoted = shlex.quote(path)
    host.run(f"rm -f {quoted} && test ! -e {quoted}", sudo=True)


def _script(host: Host, script: str, **variables: str) -> str:
    given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    return host.run(f"bash -c {shlex.quote(given + script)}", sudo=True, timeout=WITHIN * 2).stdout


def _free(host: Host, folder: str) -> int:
    told = host.run(f"stat -f -c '%a %S' {shlex.quote(folder)}", sudo=True).stdout.split()
    return int(told[0]) * int(told[1])


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
