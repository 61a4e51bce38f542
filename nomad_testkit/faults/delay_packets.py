"""Hold packets back for a while: sent to hosts, as `delay` does it where their kernel has no netem.

It needs nothing but Python 3.8 and `ip`. The packets come by a tun device of its own, and go on by a raw socket with a
mark, by which nothing sends them here a second time. With the process its device and its route go, so that packets go
their usual way.

    delay_packets.py DEVICE TABLE MTU MARK SECONDS
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Callable

MOST = 20000
"""Packets that are held at most; as netem does with its own limit, what is more is lost."""
BURST = 100
"""Packets that are read before those are sent whose time has come."""
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SO_MARK = 36


class Held:
    """Packets that wait for their time, in the order in which they came."""

    def __init__(self, seconds: float, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._packets: deque[tuple[float, bytes]] = deque()

    def add(self, packet: bytes) -> None:
        """Hold a packet, if there is room; only IPv4 is known."""
        if len(self._packets) < self._most and len(packet) >= 20 and packet[0] >> 4 == 4:
            self._packets.append((self._clock() + self._seconds, packet))

    def due(self) -> bytes | None:
        """Take the next packet, if its time has come."""
        if self._packets and self._packets[0][0] <= self._clock():
            return self._packets.popleft()[1]
        return None

    def wait(self) -> float | None:
        """Return the seconds until the next packet is due; None if no packet waits."""
        return max(self._packets[0][0] - self._clock(), 0) if self._packets else None


def open_tun(device: str) -> int:
    """Make a tun device that goes with this process; gives what reads a packet at a time."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    return tun


def pass_on(tun: int, held: Held, out: socket.socket) -> None:
    """Hold each packet that comes, and send those whose time has come."""
    wait = held.wait()
    for _ in range(BURST):
        readable, _, _ = select.select([tun], [], [], wait)
        if not readable:
            break
        held.add(os.read(tun, 65535))
        wait = 0
    packet = held.due()
    while packet is not None:
        # What a firewall of the host's own refuses, or a full queue, is lost, as in any network.
        with suppress(OSError):
            out.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
        packet = held.due()


def ready() -> None:
    """Tell systemd that packets are held from now on (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)


def main(device: str, table: str, mtu: str, mark: str, seconds: str) -> None:
    """Hold packets until the process is ended."""
    tun = open_tun(device)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        out.setsockopt(socket.SOL_SOCKET, _SO_MARK, int(mark, 0))
        # No address of IPv6 for it: an agent that starts meanwhile may take it for the host's. A kernel may lack IPv6.
        subprocess.run(["ip", "link", "set", device, "addrgenmode", "none"], check=False)
        subprocess.run(["ip", "link", "set", device, "mtu", mtu, "up"], check=True)
        subprocess.run(["ip", "route", "replace", "default", "dev", device, "table", table], check=True)
        ready()
        held = Held(float(seconds))
        while True:
            pass_on(tun, held, out)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
