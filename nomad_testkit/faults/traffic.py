"""Delayed packets: by netem where the kernel of a host has it, else by a program on the host that holds them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError
from nomad_testkit.faults.agents import WITHIN, at_once
from nomad_testkit.faults.arguments import number
from nomad_testkit.faults.fault import Fault, listed, own
from nomad_testkit.faults.network import others
from nomad_testkit.faults.repairs import Repairs, Turn, undoes

# The fourth band of prio gets only what a filter sends there, so nothing but packets to the cluster's hosts is delayed.
_BAND = "1:4"
_DEVICE = "dev=$(ip -o route get {address} | sed 's/.* dev \\([^ ]*\\).*/\\1/')"
_HAS_NETEM = "nomad-testkit: netem works"

_PROGRAM = Path(__file__).with_name("delay_packets.py")
_TABLE = "nomad_testkit_fault_delay_"
# A packet's mark sends it to the program: the first bit where it is to be held, the second one once it was. A rule by
# its destination would do so, too, but then a kernel that filters by the reverse path drops what those hosts send.
_HOLD, _HELD = 0x04000000, 0x08000000


def delay(cluster: Cluster, seconds: float, hosts: Sequence[Host]) -> Fault:
    """Make the fault that delays what hosts send to others of the cluster.

    The kernel does it by netem (tc-netem(8)); where it has none, a program on the host that gets the packets by a tun
    device. Raises FaultError, when it is used, where a host has neither, or delays packets already.
    """
    chosen = own(cluster, hosts)
    seconds = number("seconds of delay", seconds, least=0.001, most=60, unit="s")
    addresses = {host: [one.private_ip for one in others(cluster, host)] for host in chosen}

    def make(repairs: Repairs) -> None:
        netem: dict[Host, bool] = {}

        def look(host: Host) -> None:
            netem[host] = _has_netem(host)

        def slow(host: Host) -> None:
            by = _delay_by_netem if netem[host] else _delay_by_program
            by(cluster, host, repairs, seconds, addresses[host])

        at_once(chosen, look)
        at_once(chosen, slow)

    return Fault(f"delay what {listed(chosen)} sends to the cluster by {seconds:g} s", make)


def _has_netem(host: Host) -> bool:
    """Whether a host's kernel has netem. Raises FaultError where the host delays packets already."""
    # Tried in a network namespace that ends with the shell, so nothing is left where the kernel has a part of it.
    trial = _netem("lo", 0.001, ["127.0.0.1"])
    lines = host.run(
        "tc qdisc show 2>/dev/null; nft list tables 2>/dev/null; "
        f"if unshare --net sh -c '{trial}' 2>/dev/null; then echo '{_HAS_NETEM}'; fi",
        sudo=True,
    ).stdout.splitlines()
    if other := next((line for line in lines if line.startswith("qdisc netem ") or _TABLE in line), None):
        raise FaultError(f"{host} delays packets already ({other.strip()}); end that fault first")
    return _HAS_NETEM in lines


def _netem(device: str, seconds: float, addresses: Sequence[str]) -> str:
    """Give the command that delays what is sent to some addresses by a device."""
    commands = [
        f"tc qdisc add dev {device} root handle 1: prio bands 4",
        f"tc qdisc add dev {device} parent {_BAND} netem delay {round(seconds * 1000)}ms",
    ]
    for address in addresses:
        match = f"u32 match ip dst {address}/32"
        commands.append(f"tc filter add dev {device} parent 1: protocol ip {match} flowid {_BAND}")
    return " && ".join(commands)


def _delay_by_netem(cluster: Cluster, host: Host, repairs: Repairs, seconds: float, addresses: Sequence[str]) -> None:
    device = _DEVICE.format(address=addresses[0])
    repairs.plan(f"remove netem from {host}", _remove, cluster, [host], device=device)
    host.run(f"{device} && {_netem('$dev', seconds, addresses)}", sudo=True)


@undoes("remove netem", Turn.NETWORK)
def _remove(cluster: Cluster, hosts: Sequence[Host], *, device: str) -> None:
    (host,) = hosts
    # The first command may have worked, and the second not.
    left = host.run(
        f"{device} && {{ tc qdisc del dev $dev root handle 1: 2>/dev/null; tc qdisc show dev $dev; }}", sudo=True
    ).stdout
    if "netem" in left or "prio 1:" in left:
        raise FaultError(f"tc still shows {left.strip()}")


@dataclass(frozen=True, slots=True)
class _Holder:
    """The names of all that one delay by the program has on a host, and the commands that make and end it."""

    token: str

    @property
    def unit(self) -> str:
        return f"nomad-testkit-fault-{self.token}"

    @property
    def path(self) -> str:
        return f"/run/{self.unit}.py"

    @property
    def table(self) -> str:
        return _TABLE + self.token

    @property
    def device(self) -> str:
        return f"ntfault{self.token}"

    @property
    def number(self) -> int:
        """The number of its routing table, and of the rule that leads there."""
        return 10000 + int(self.token, 16) % 20000

    @property
    def rule(self) -> str:
        return f"pref {self.number} fwmark {_HOLD}/{_HOLD} lookup {self.number}"

    def start(self, first: str, seconds: float) -> str:
        """Give the command that starts the program, and ends when packets can be sent to it."""
        mtu = "$(cat /sys/class/net/$dev/mtu)"
        return (
            f"{_DEVICE.format(address=first)} && systemd-run --quiet --unit={self.unit} "
            "-p Type=notify -p NotifyAccess=main -p Restart=on-failure "
            f"python3 {self.path} {self.device} {self.number} {mtu} {_HELD} {seconds} "
            f"|| {{ journalctl -u {self.unit} -t python3 -o cat -n 1 >&2; exit 1; }}"
        )

    def send(self, addresses: Sequence[str]) -> str:
        """Give the command that sends packets for some addresses to the program, those of tasks, too.

        What it sends on is not tracked a second time, or a connection that is masqueraded would clash with itself.
        """
        to = f"ip daddr {{ {', '.join(addresses)} }}"
        return f"""ip rule add {self.rule} && nft -f - <<'EOF'
table ip {self.table} {{
  chain sent {{
    type route hook output priority mangle; policy accept;
    {to} meta mark & {_HOLD | _HELD} == 0 meta mark set meta mark | {_HOLD}
  }}
  chain sent_on {{
    type filter hook output priority raw; policy accept;
    meta mark & {_HELD} != 0 notrack
  }}
  chain forwarded {{
    type filter hook prerouting priority mangle; policy accept;
    iifname != "lo" {to} meta mark set meta mark | {_HOLD}
  }}
}}
EOF"""

    def end(self) -> str:
        """Give the command that ends all of it, and lists what there is then; it can be run again."""
        return (
            f"nft delete table ip {self.table} 2>/dev/null; "
            f"while ip rule del {self.rule} 2>/dev/null; do :; done; "
            f"systemctl stop {self.unit} 2>/dev/null; systemctl reset-failed {self.unit} 2>/dev/null; "
            f"rm -f {self.path}; nft list tables && ip rule && ip -o link"
        )


def _delay_by_program(cluster: Cluster, host: Host, repairs: Repairs, seconds: float, addresses: Sequence[str]) -> None:
    holder = _Holder(secrets.token_hex(4))
    repairs.plan(f"end the delay of packets on {host}", _end, cluster, [host], token=holder.token)
    host.put(_PROGRAM, holder.path, sudo=True)
    started = host.run(holder.start(addresses[0], seconds), sudo=True, check=False, timeout=WITHIN * 2)
    if started.status:
        raise FaultError(
            f"{host} cannot delay packets: its kernel has no netem (CONFIG_NET_SCH_NETEM), and what does it instead, "
            "with python3, systemd-run and /dev/net/tun, does not start. throttle() and lose() need nftables only. "
            f"{started.stderr.strip()}"
        )
    host.run(holder.send(addresses), sudo=True)


@undoes("end delay", Turn.NETWORK)
def _end(cluster: Cluster, hosts: Sequence[Host], *, token: str) -> None:
    """End the program, and prove that its device and its rules are gone; a rebooted host has none any more."""
    (host,) = hosts
    holder = _Holder(token)
    left = host.run(holder.end(), sudo=True, timeout=WITHIN * 2).stdout.splitlines()
    ours = (holder.table, holder.device, f"lookup {holder.number}")
    if found := [line.strip() for line in left if any(one in line for one in ours)]:
        raise FaultError(f"there is still {'; '.join(found)}")
