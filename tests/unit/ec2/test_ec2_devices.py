from __future__ import annotations

import struct
from pathlib import Path

import pytest

from nomad_testkit.ec2.machines import devices
from nomad_testkit.ec2.machines.devices import deny_devices

BLOCK, CHARACTER = 1, 2
MKNOD, READ, WRITE = 1, 2, 4


def answer(kind: int, access: int, major: int, minor: int) -> int:
    """Run the program as the kernel would (instruction-set.rst of its documentation)."""
    context = struct.pack("=III", access << 16 | kind, major, minor)
    program = devices._program()
    registers, at = [0] * 6, 0
    while True:
        code, names, offset, value = struct.unpack_from("=BBhi", program, at * 8)
        register, at = names & 15, at + 1
        if code == 0x61:
            (registers[register],) = struct.unpack_from("=I", context, offset)
        elif code == 0x77:
            registers[register] >>= value
        elif code == 0x57:
            registers[register] &= value
        elif code == 0xB7:
            registers[register] = value
        elif code in (0x15, 0x55):
            at += offset if (registers[register] == value) == (code == 0x15) else 0
        else:
            assert code == 0x95
            return registers[0]


@pytest.mark.parametrize(
    ("kind", "access", "major", "minor", "expected"),
    [
        (CHARACTER, READ | WRITE, 1, 3, 1),  # null
        (CHARACTER, READ, 1, 9, 1),  # urandom
        (CHARACTER, READ, 5, 2, 1),  # ptmx
        (CHARACTER, READ | WRITE, 136, 77, 1),  # a terminal
        (CHARACTER, READ | WRITE, 10, 200, 1),  # tun
        (CHARACTER, READ, 1, 1, 0),  # mem
        (CHARACTER, READ, 1, 11, 0),  # kmsg
        (CHARACTER, READ, 10, 237, 0),  # loop-control
        (CHARACTER, READ, 3, 1, 0),  # of another major with an allowed minor's number
        (BLOCK, READ, 1, 3, 0),  # a RAM disk with null's numbers
        (BLOCK, READ, 254, 0, 0),
        (BLOCK, WRITE, 8, 1, 0),
        (BLOCK, MKNOD, 8, 1, 1),
        (BLOCK, MKNOD | READ, 8, 1, 0),
    ],
)
def test_what_version_2_lets_a_host_open(kind: int, access: int, major: int, minor: int, expected: int) -> None:
    assert answer(kind, access, major, minor) == expected


def test_version_1_lets_it_open_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "devices.deny").touch()
    (tmp_path / "devices.list").write_text("a *:* rwm\n")
    rules: list[str] = []
    monkeypatch.setattr(Path, "write_text", lambda path, text: rules.append(f"{path.name} {text}"))
    deny_devices(tmp_path, v2=False)
    assert rules[0] == "devices.deny a"
    assert "devices.allow c 1:3 rwm" in rules
    assert "devices.allow c 136:* rwm" in rules
    opened = [rule for rule in rules[1:] if not rule.endswith(" m")]
    assert len(opened) == len(devices._ALLOWED)
    assert all(rule.startswith("devices.allow c ") for rule in opened)


def test_a_cgroup_of_a_boot_before_keeps_what_is_denied_there(tmp_path: Path) -> None:
    (tmp_path / "devices.deny").touch()
    (tmp_path / "devices.list").write_text("c *:* m\nb *:* m\n")
    deny_devices(tmp_path, v2=False)
    assert (tmp_path / "devices.deny").read_text() == ""


def test_another_hierarchy_of_version_1_is_left_alone(tmp_path: Path) -> None:
    deny_devices(tmp_path, v2=False)
    assert list(tmp_path.iterdir()) == []
