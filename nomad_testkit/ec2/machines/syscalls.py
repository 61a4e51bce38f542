"""System calls of Linux that Python has no function for, with the kernel's own words when they fail."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# The same on every architecture: they are newer than the common table of numbers.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 437, 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_FSCONFIG_CMD_CREATE = 6
_MOUNT_ATTR_IDMAP = 0x100000
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def call(number: int, what: str, *arguments: object) -> int:
    """Make the system call with this number. Raises OSError, which names `what` it was about."""
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open `path` as if the folder open at `root` were the root folder, absolute links included (openat2(2))."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return call(_OPENAT2, path, ctypes.c_int(root), path.encode(), ctypes.byref(how), size)


def clone_mount(folder: Path) -> int:
    """Open a copy of the mount that shows `folder`, which is mounted nowhere yet (open_tree(2))."""
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)
    return call(_OPEN_TREE, str(folder), ctypes.c_int(_AT_FDCWD), os.fsencode(folder), flags)


def open_tmpfs() -> int:
    """Open a tmpfs that is mounted nowhere (fsmount(2))."""
    context = call(_FSOPEN, "tmpfs", b"tmpfs", ctypes.c_uint(1))
    try:
        nothing = ctypes.c_void_p(None)
        create = ctypes.c_uint(_FSCONFIG_CMD_CREATE)
        call(_FSCONFIG, "tmpfs", ctypes.c_int(context), create, nothing, nothing, ctypes.c_int(0))
        return call(_FSMOUNT, "tmpfs", ctypes.c_int(context), ctypes.c_uint(1), ctypes.c_uint(0))
    finally:
        os.close(context)


def map_owners(mount: int, user_namespace: int) -> None:
    """Let a mount from `clone_mount` show its owners as a user namespace maps them (mount_setattr(2))."""
    attributes = _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, user_namespace)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    flags = ctypes.c_uint(_AT_EMPTY_PATH)
    call(_MOUNT_SETATTR, "its owners", ctypes.c_int(mount), b"", flags, ctypes.byref(attributes), size)


def attach_mount(mount: int, folder: Path) -> None:
    """Mount what `clone_mount` has opened (move_mount(2))."""
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    there = ctypes.c_int(_AT_FDCWD)
    call(_MOVE_MOUNT, str(folder), ctypes.c_int(mount), b"", there, os.fsencode(folder), flags)
