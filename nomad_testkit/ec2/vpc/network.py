"""The cloud's network: one namespace that routes between the hosts, the machine and the cloud's own services.

Every host hangs on a veth pair of its own and is routed to by its /32, as in a VPC, where no two instances share a
wire: so all traffic between hosts passes the cloud's namespace, where it can be filtered.

The machine reaches the hosts through one more veth pair. Public addresses are 127.31.A.B (127.32.A.B for a second
cloud, and so on), which only this machine can reach. They hang on a route in the machine's ``local`` table, more
specific than its 127.0.0.0/8, to the veth's far end, where the cloud's namespace translates them to 172.31.A.B. So the
machine holds a link, and a route and a sysctl that belong to the link, which all go when the cloud's namespace goes.
The rules on who may send through the link (`vpc.callers`) go with a process of the cloud.
"""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.errors import Ec2Error

VPC = ipaddress.IPv4Network("172.31.0.0/16")
API_ADDRESS = "172.31.255.1"
METADATA_ADDRESS = "169.254.169.254"
RESOLVER_ADDRESSES = ("169.254.169.253", "172.31.0.2")
_FIRST_PUBLIC = 31
MOST_CLOUDS = 32
MACHINE_LINK = "machine"
"""The name that the link to the machine has in the cloud."""


@dataclass(frozen=True, slots=True)
class CloudAddresses:
    """The addresses of the cloud with this index; several can run on one machine.

    >>> CloudAddresses(0).endpoint_url
    'http://127.31.255.1'
    >>> CloudAddresses(1).public("172.31.16.5")
    '127.32.16.5'
    """

    index: int

    @property
    def link(self) -> str:
        """The name of the veth's end on the machine."""
        return f"nomadtk{self.index}"

    @property
    def public_block(self) -> ipaddress.IPv4Network:
        """The block that the hosts' public addresses are from."""
        return ipaddress.IPv4Network(f"127.{_FIRST_PUBLIC + self.index}.0.0/16")

    @property
    def machine_address(self) -> str:
        """The address that hosts see this machine come from."""
        return f"169.254.253.{4 * self.index + 1}"

    @property
    def cloud_address(self) -> str:
        """The address of the veth's end in the cloud."""
        return f"169.254.253.{4 * self.index + 2}"

    @property
    def endpoint_url(self) -> str:
        """Where the cloud's AWS API answers, seen from this machine."""
        return f"http://{self.public(API_ADDRESS)}"

    def public(self, private: str) -> str:
        """Give the public address that belongs to a private one."""
        offset = int(ipaddress.IPv4Address(private)) - int(VPC.network_address)
        return str(self.public_block.network_address + offset)


def claim(index: int) -> socket.socket | None:
    """Take an index of this machine, or None where a cloud has it; it is free again when the socket closes.

    The lock is an abstract Unix socket: the kernel drops it with its process, however that ends, and it belongs to a
    network namespace, as the link and the route do.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0nomad-testkit/cloud-{index}")
    except OSError:
        lock.close()
        return None
    return lock


def claim_first() -> tuple[int, socket.socket]:
    """Take the first index that is free and whose block nobody else routes. Raises Ec2Error if all are taken."""
    for index in range(MOST_CLOUDS):
        lock = claim(index)
        if lock is None:
            continue
        addresses = CloudAddresses(index)
        leave_machine(addresses)  # where the kernel is still at it, after a cloud that was killed
        if _routed_elsewhere(addresses):
            lock.close()
            continue
        return index, lock
    raise Ec2Error(
        f"all {MOST_CLOUDS} blocks for embedded clouds, {CloudAddresses(0).public_block} to "
        f"{CloudAddresses(MOST_CLOUDS - 1).public_block}, are in use on this machine: end some of the clouds"
    )


def _routed_elsewhere(addresses: CloudAddresses) -> bool:
    block = str(addresses.public_block)
    routes = _run(["ip", "-4", "route", "show", "table", "local", "root", block])
    return bool(routes.strip())


def join_machine(addresses: CloudAddresses, cloud_pid: int) -> None:
    """From the machine: link it to the network namespace of the process `cloud_pid`."""
    link = addresses.link
    _batch(
        [],
        f"link add {link} type veth peer name {MACHINE_LINK} netns {cloud_pid}",
        f"addr add {addresses.machine_address}/30 dev {link}",
        f"link set {link} up",
    )
    conf = Path(f"/proc/sys/net/ipv4/conf/{link}")
    # Without it the kernel takes a loopback address that arrives from a link for a forgery.
    (conf / "route_localnet").write_text("1")
    (conf / "rp_filter").write_text("0")
    ipv6 = Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6")
    if ipv6.exists():
        ipv6.write_text("1")
    _batch(
        [],
        f"route add {addresses.public_block} via {addresses.cloud_address} dev {link} "
        f"src {addresses.machine_address} table local",
    )


def leave_machine(addresses: CloudAddresses) -> None:
    """From the machine: drop the link now; the kernel takes its time over a dead namespace's."""
    if Path(f"/sys/class/net/{addresses.link}").exists():
        _run(["ip", "link", "del", addresses.link], check=False)


def open_cloud(addresses: CloudAddresses) -> None:
    """From within the cloud's namespace, already joined to the machine: set up routing and translation."""
    route_hosts()
    _batch(
        [],
        f"addr add {addresses.cloud_address}/30 dev {MACHINE_LINK}",
        f"link set {MACHINE_LINK} up",
        *(f"addr add {address}/32 dev lo" for address in (API_ADDRESS, METADATA_ADDRESS, *RESOLVER_ADDRESSES)),
    )
    for name, value in (("route_localnet", "1"), ("rp_filter", "0")):
        Path(f"/proc/sys/net/ipv4/conf/{MACHINE_LINK}/{name}").write_text(value)
    _run(
        ["nft", "-f", "-"],
        f"""
        table ip cloud {{
            chain public_addresses {{
                type nat hook prerouting priority dstnat; policy accept;
                iifname "{MACHINE_LINK}" dnat ip prefix to ip daddr map {{ {addresses.public_block} : {VPC} }}
            }}
        }}
        """,
    )


def filter_hosts(ruleset: str) -> None:
    """From within the cloud's namespace: bring nftables rules into force, all or none. Raises Ec2Error."""
    _run(["nft", "-f", "-"], ruleset)


def route_hosts() -> None:
    """In a new network namespace: let hosts that `HostLink` links to it reach each other."""
    _batch([], "link set lo up")
    ipv4 = Path("/proc/sys/net/ipv4")
    (ipv4 / "ip_forward").write_text("1")
    (ipv4 / "conf/default/proxy_arp").write_text("1")
    for which in ("all", "default"):
        (ipv4 / f"conf/{which}/send_redirects").write_text("0")
    (ipv4 / "conf/all/rp_filter").write_text("0")
    (ipv4 / "conf/default/rp_filter").write_text("1")  # a host cannot speak as another one


@dataclass(frozen=True, slots=True)
class HostLink:
    """A host's link to the cloud."""

    private_ip: str
    subnet: str
    mac: str

    @property
    def device(self) -> str:
        """The name of the cloud's end of the link."""
        return "eni-" + "-".join(self.private_ip.split(".")[2:])

    def attach(self, namespace: str) -> None:
        """Link the network namespace at this path, and give it the host's address and default route."""
        subnet = ipaddress.IPv4Network(self.subnet)
        gateway = subnet.network_address + 1
        self.detach()  # the kernel takes its time over the link of a host that has just ended
        _batch(
            [],
            f"link add {self.device} type veth peer name eth0 netns {namespace} address {self.mac}",
            f"link set {self.device} up",
            f"addr replace {gateway}/32 dev lo",
            f"route add {self.private_ip}/32 dev {self.device}",
        )
        # By default a proxy's ARP answer waits up to 0.8 s.
        Path(f"/proc/sys/net/ipv4/neigh/{self.device}/proxy_delay").write_text("0")
        _batch(
            # `ip -n` would mount another /sys for it.
            ["nsenter", f"--net={namespace}"],
            "link set lo up",
            f"addr add {self.private_ip}/{subnet.prefixlen} brd + dev eth0",
            "link set eth0 up",
            f"route add default via {gateway} dev eth0",
        )

    def detach(self) -> None:
        """Remove the link, if it is there."""
        # Not by /sys, which is the machine's and lists the links of its own network namespace.
        if self.device in {name for _, name in socket.if_nameindex()}:
            _run(["ip", "link", "del", self.device], check=False)


def _batch(within: list[str], *commands: str) -> None:
    _run([*within, "ip", "-batch", "-"], "\n".join(commands) + "\n")


def _run(command: list[str], stdin: str = "", *, check: bool = True) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise Ec2Error(f"`{' '.join(command)}` ended with status {done.returncode}: {done.stderr.strip()}\n{stdin}")
    return done.stdout
