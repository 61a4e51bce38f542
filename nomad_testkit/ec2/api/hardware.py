"""What the cloud's API works on: machines, images and addresses."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from nomad_testkit.ec2.machines.spec import ImageRecord, Machines
from nomad_testkit.ec2.vpc.network import VPC

_RESERVED_FIRST = 4  # addresses of each subnet that AWS keeps for itself, besides the last


class ChangeLock:
    """A reentrant lock; `settle` is called whenever a holder is about to give it up."""

    def __init__(self) -> None:
        self.settle: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        self._depth = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        try:
            if self._depth == 1:
                self.settle()
        finally:
            self._depth -= 1
            self._lock.release()


@dataclass
class Hardware:
    """What stands behind one cloud's API."""

    machines: Machines
    public_block: ipaddress.IPv4Network
    images: Sequence[ImageRecord]
    private_block: ipaddress.IPv4Network = VPC
    """The only addresses that machines can have."""
    lock: ChangeLock = field(default_factory=ChangeLock)
    """moto is not thread-safe: whoever touches its objects holds this."""
    reserved: set[str] = field(default_factory=set)
    """Private addresses that no instance gets."""
    _next: dict[str, int] = field(default_factory=dict)

    def public_address(self, private_ip: str) -> str:
        """Map a private address to the public one that belongs to it, for example 172.31.16.5 to 127.31.16.5."""
        offset = int(ipaddress.IPv4Address(private_ip)) & int(self.public_block.hostmask)
        return str(self.public_block.network_address + offset)

    def take_address(self, network: ipaddress.IPv4Network, taken: Collection[str]) -> str | None:
        """Choose the next free private address of a subnet; None when it is full.

        One that was in use comes again as late as can be, so that nobody takes a new host for an old one.
        """
        first, last = int(network.network_address) + _RESERVED_FIRST, int(network.broadcast_address) - 1
        start = self._next.get(str(network), first)
        for number in (*range(start, last + 1), *range(first, start)):
            address = str(ipaddress.IPv4Address(number))
            if address not in taken and address not in self.reserved:
                self._next[str(network)] = number + 1
                return address
        return None
