"""User and group ids for hosts: root on a host is nobody on this machine, nor on another host.

Each host has a user namespace (user_namespaces(7)) with a range of ids of its own. Images keep the ids that they have:
a host gets them through a mount that shows their owners in its range (mount_setattr(2)), so the same files, and their
pages in memory, serve all hosts. Only what a host writes itself bears its ids, until an image is made of it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from nomad_testkit.ec2.machines.devices import load_policy
from nomad_testkit.ec2.machines.syscalls import attach_mount, clone_mount, map_owners, open_tmpfs
from nomad_testkit.ec2.vpc.network import MOST_CLOUDS
from nomad_testkit.errors import Ec2Error

IDS = 65536
"""How many ids a host has."""
FIRST_BASE = 0x30000000
"""In the range that systemd keeps for containers, away from what /etc/subuid gives to users."""
HOSTS_OF_A_CLOUD = 512

_CAPABILITY, _ACLS = "security.capability", ("system.posix_acl_access", "system.posix_acl_default")
_ACL_USER, _ACL_GROUP = 0x02, 0x08
_CAPABILITY_REVISION_2, _CAPABILITY_REVISION_3, _CAPABILITY_FLAGS = 0x02000000, 0x03000000, 0x00FFFFFF


class Isolation(enum.Enum):
    """What stands between root on a host and this machine."""

    FULL = "full"
    """A user namespace for each host, the capabilities that a host needs, and no devices."""
    REDUCED = "reduced"
    """As `FULL`, but without user namespaces: root on a host is root on this machine, with fewer rights."""
    NONE = "none"
    """Nothing but namespaces of pids, mounts and networks; for tests, which show by it that they can fail."""


class IdPool:
    """The ranges of ids of one cloud, one for each host that has a disk.

    >>> pool = IdPool(1)
    >>> pool.take() - FIRST_BASE == HOSTS_OF_A_CLOUD * IDS
    True
    """

    def __init__(self, cloud_index: int) -> None:
        self._first = FIRST_BASE + cloud_index * HOSTS_OF_A_CLOUD * IDS
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def take(self) -> int:
        """Give the first id of a range that nobody has. Raises Ec2Error when all are taken."""
        with self._lock:
            for number in range(HOSTS_OF_A_CLOUD):
                if number not in self._taken:
                    self._taken.add(number)
                    return self._first + number * IDS
        raise Ec2Error(f"a cloud has user ids for {HOSTS_OF_A_CLOUD} hosts, and all are taken: terminate some")

    def give_back(self, base: int) -> None:
        """Let another host have a range, once nothing bears its ids."""
        with self._lock:
            self._taken.discard((base - self._first) // IDS)


def is_of_a_host(number: int) -> bool:
    """Whether a user or group id of this machine belongs to a host of one of its clouds."""
    return 0 <= number - FIRST_BASE < MOST_CLOUDS * HOSTS_OF_A_CLOUD * IDS


@contextlib.contextmanager
def user_namespace(base: int) -> Iterator[int]:
    """Open a user namespace whose ids from 0 on are the machine's from `base` on."""
    with subprocess.Popen(
        ["unshare", "--user", "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: PT018
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"\n")
            process.stdin.flush()
        if process.stdout.read(1) != b"\n":  # cat runs, so it is in the namespace
            raise Ec2Error(f"no user namespace: {process.stderr.read().decode(errors='replace').strip()}")
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {base} {IDS}\n")
        namespace = os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        process.stdin.close()
    try:
        yield namespace
    finally:
        os.close(namespace)


def mount_mapped(layer: Path, folder: Path, namespace: int) -> None:
    """Mount a layer at `folder` with its owners in the range of a user namespace. Raises Ec2Error."""
    try:
        mount = clone_mount(layer)
        try:
            map_owners(mount, namespace)
            attach_mount(mount, folder)
        finally:
            os.close(mount)
    except OSError as error:
        raise Ec2Error(f"the owners of {layer} cannot be mapped into a host's user ids: {error.strerror}") from error


def missing_isolation(*folders: Path) -> str:
    """Tell what this machine lacks to give each host user ids of its own; empty where it lacks nothing.

    `folders` are where images lie, whose file systems have a say in it. Needs root; mounts nothing.
    """
    try:
        with user_namespace(FIRST_BASE) as namespace:
            for folder in (None, *folders):
                try:
                    mount = open_tmpfs() if folder is None else clone_mount(folder)
                    try:
                        map_owners(mount, namespace)
                    finally:
                        os.close(mount)
                except OSError as error:
                    where = "a tmpfs (Linux 6.3 can)" if folder is None else f"the file system of {folder}"
                    return f"{where} cannot be mounted with other owners: {error.strerror}"
            if not Path("/sys/fs/cgroup/devices/devices.deny").exists():  # of version 1 of cgroups
                os.close(load_policy())
    except (OSError, Ec2Error) as error:
        return f"{error}"
    return ""


def take_out_of_range(folder: Path, base: int) -> None:
    """Give everything in `folder` the ids that it has on the host whose range begins at `base`.

    Modes, file capabilities and access control lists stay what they are there. What is in no range stays as it is, so
    a second time changes nothing. Nothing else may change the folder meanwhile.
    """
    _unshift(folder, base)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _unshift(Path(parent, name), base)


def _unshift(path: Path, base: int) -> None:
    status = path.lstat()
    owner, group = _outside(status.st_uid, base), _outside(status.st_gid, base)
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name in (_CAPABILITY, *_ACLS)
    }
    if (owner, group) != (status.st_uid, status.st_gid):
        os.chown(path, owner, group, follow_symlinks=False)
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(status.st_mode):
            path.chmod(stat.S_IMODE(status.st_mode))  # chown(2) clears these, and file capabilities
    for name, value in attributes.items():
        changed = _capability(value, base) if name == _CAPABILITY else _acl(value, base)
        os.setxattr(path, name, changed, follow_symlinks=False)


def _outside(number: int, base: int) -> int:
    return number - base if base <= number < base + IDS else number


def _capability(value: bytes, base: int) -> bytes:
    """Make a file capability that counts in one namespace (revision 3) one that counts everywhere (capabilities(7))."""
    (magic,) = struct.unpack_from("<I", value)
    if magic & ~_CAPABILITY_FLAGS != _CAPABILITY_REVISION_3 or struct.unpack_from("<I", value, 20) != (base,):
        return value
    return struct.pack("<I", magic & _CAPABILITY_FLAGS | _CAPABILITY_REVISION_2) + value[4:20]


def _acl(value: bytes, base: int) -> bytes:
    """Change the ids of an access control list: a version, then entries of tag, permissions and id (acl(5))."""
    entries = [struct.unpack_from("<HHI", value, offset) for offset in range(4, len(value), 8)]
    return value[:4] + b"".join(
        struct.pack("<HHI", tag, allowed, _outside(number, base) if tag in (_ACL_USER, _ACL_GROUP) else number)
        for tag, allowed, number in entries
    )
