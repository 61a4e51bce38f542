"""The program that holds packets back: in their order, for their time, as many as it may, and then sent on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from nomad_testkit.faults.delay_packets import Held, pass_on, ready


def packet(number: int, version: int = 4) -> bytes:
    """Make the header of a packet for 10.0.0.NUMBER, with the number as its payload."""
    return bytes([version << 4 | 5]) + bytes(15) + bytes([10, 0, 0, number]) + bytes([number])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Sent:
    """A raw socket that notes what is sent by it; one packet a host refuses."""

    def __init__(self, refuses: str = "") -> None:
        self.packets: list[tuple[bytes, tuple[str, int]]] = []
        self._refuses = refuses

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        if address[0] == self._refuses:
            raise PermissionError(1, "Operation not permitted")
        self.packets.append((data, address))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tun() -> Iterator[tuple[socket.socket, int]]:
    """Give what has one packet a read, as a tun device, and where packets are put into it."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with closing(kernel), closing(device):
        yield kernel, device.fileno()


def test_each_packet_waits_for_its_own_time_in_the_order_of_arrival(clock: Clock) -> None:
    held = Held(0.5, clock=clock)
    assert (held.due(), held.wait()) == (None, None)
    held.add(packet(1))
    clock.now += 0.25
    held.add(packet(2))
    assert (held.due(), held.wait()) == (None, 0.25)
    clock.now += 0.25
    assert (held.due(), held.due(), held.wait()) == (packet(1), None, 0.25)
    clock.now += 1
    assert (held.wait(), held.due(), held.due()) == (0, packet(2), None)


def test_what_is_more_than_there_is_room_for_is_lost(clock: Clock) -> None:
    held = Held(0.5, 2, clock)
    for number in range(1, 4):
        held.add(packet(number))
    clock.now += 1
    assert [held.due() for _ in range(3)] == [packet(1), packet(2), None]


@pytest.mark.parametrize("other", [packet(1, version=6), b"", packet(1)[:19]])
def test_only_packets_of_ipv4_are_held(other: bytes, clock: Clock) -> None:
    held = Held(0, clock=clock)
    held.add(other)
    assert held.due() is None


def test_packets_are_sent_on_to_their_destination_once_it_is_time(clock: Clock, tun: tuple[socket.socket, int]) -> None:
    kernel, device = tun
    held, out = Held(0.5, clock=clock), Sent(refuses="10.0.0.2")
    for number in range(1, 4):
        kernel.send(packet(number))
    pass_on(device, held, cast("socket.socket", out))
    assert out.packets == []
    clock.now += 1
    pass_on(device, held, cast("socket.socket", out))
    # The one that could not be sent is lost, and keeps no other back.
    assert out.packets == [(packet(1), ("10.0.0.1", 0)), (packet(3), ("10.0.0.3", 0))]


def test_systemd_hears_when_packets_can_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    ready()
    for name in (str(tmp_path / "notify"), f"@nomad-testkit-{os.getpid()}"):
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
            listening.bind("\0" + name[1:] if name.startswith("@") else name)
            monkeypatch.setenv("NOTIFY_SOCKET", name)
            ready()
            assert listening.recv(100) == b"READY=1"
