"""Which devices of this machine a host can open: those of every container, and no disk."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from nomad_testkit.ec2.machines.syscalls import call

_ALLOWED: tuple[tuple[int, int | None], ...] = (
    *((1, minor) for minor in (3, 5, 7, 8, 9)),  # null, zero, full, random, urandom
    *((5, minor) for minor in (0, 1, 2)),  # tty, console, ptmx
    (136, None),  # terminals
    (10, 200),  # net/tun
)
"""Character devices by major and minor number (devices.txt of the kernel); None for any."""

_BPF = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine, -1)
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_ACCESS_MKNOD, _TYPE_CHARACTER = 1, 2


def deny_devices(cgroup: Path, *, v2: bool) -> None:
    """Let processes in a cgroup make nodes, as far as they may, but open those of few devices. Raises OSError."""
    if v2:
        _attach(cgroup)
    elif (cgroup / "devices.deny").is_file():
        # A host that boots again keeps its cgroup and what is denied there: with others below it takes no new rule.
        listed = cgroup / "devices.list"
        if listed.is_file() and not listed.read_text().startswith("a "):
            return
        (cgroup / "devices.deny").write_text("a")
        for rule in ("c *:* m", "b *:* m", *(f"c {major}:{_any(minor)} rwm" for major, minor in _ALLOWED)):
            (cgroup / "devices.allow").write_text(rule)


def load_policy() -> int:
    """Give a descriptor of the policy as version 2 of cgroups wants it: a program that is asked (bpf(2)).

    Raises OSError where the kernel takes none.
    """
    program = ctypes.create_string_buffer(_program())
    count = (len(program) - 1) // 8
    licence = ctypes.create_string_buffer(b"MIT")
    addresses = ctypes.addressof(program), ctypes.addressof(licence)
    attributes = struct.pack("=IIQQIIQII", _PROG_TYPE_CGROUP_DEVICE, count, *addresses, 0, 0, 0, 0, 0)
    return _bpf(_PROG_LOAD, "a program for devices", attributes)


def _attach(cgroup: Path) -> None:
    folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        program = load_policy()
        try:
            # The cgroup holds the program until it is removed itself.
            attributes = struct.pack("=IIII", folder, program, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
            _bpf(_PROG_ATTACH, str(cgroup), attributes)
        finally:
            os.close(program)
    finally:
        os.close(folder)


def _bpf(command: int, what: str, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return call(_BPF, what, ctypes.c_int(command), ctypes.byref(buffer), ctypes.c_uint(len(attributes)))


def _any(minor: int | None) -> str:
    return "*" if minor is None else str(minor)


def _program() -> bytes:
    """Give the instructions; the kernel calls them with access and type, major and minor of what is to be opened.

    Register 1 points to ``struct bpf_cgroup_dev_ctx``, 2 gets the type, 3 the access, 4 and 5 the numbers, and 0 the
    answer: 1 for yes.
    """
    load, shift, mask, if_equal, unless_equal = 0x61, 0x77, 0x57, 0x15, 0x55
    yes, no = (_word(0xB7, 0, value=answer) + _word(0x95) for answer in (1, 0))
    program = [
        *(_word(load, 2, source=1), _word(load, 3, source=1)),
        *(_word(load, 4, source=1, offset=4), _word(load, 5, source=1, offset=8)),
        *(_word(mask, 2, value=0xFFFF), _word(shift, 3, value=16)),
        _word(unless_equal, 3, offset=2, value=_ACCESS_MKNOD) + yes,
        _word(if_equal, 2, offset=2, value=_TYPE_CHARACTER) + no,
    ]
    for major, minor in _ALLOWED:
        one = b"" if minor is None else _word(unless_equal, 5, offset=2, value=minor)
        program.append(_word(unless_equal, 4, offset=2 + len(one) // 8, value=major) + one + yes)
    return b"".join([*program, no])


def _word(code: int, register: int = 0, *, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, register | source << 4, offset, value)
