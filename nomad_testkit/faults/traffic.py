"""Delayed packets, by netem where the kernel of the hosts has it."""

from __future__ import annotations

from collections.abc import Sequence

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError
from nomad_testkit.faults.agents import at_once
from nomad_testkit.faults.arguments import number
from nomad_testkit.faults.fault import Fault, listed, own
from nomad_testkit.faults.network import others
from nomad_testkit.faults.repairs import Repairs, Turn, undoes

# The fourth band of prio gets only what a filter sends there, so nothing but packets to the cluster's hosts is delayed.
_BAND = "1:4"
_DEVICE = "dev=$(ip -o route get {address} | sed 's/.* dev \\([^ ]*\\).*/\\1/')"


def delay(cluster: Cluster, seconds: float, hosts: Sequence[Host]) -> Fault:
    """Make the fault that delays what hosts send to others of the cluster (tc-netem(8)).

    Raises FaultError, when it is used, where the kernel has no netem, and says what there is instead.
    """
    chosen = own(cluster, hosts)
    seconds = number("seconds of delay", seconds, least=0.001, most=60, unit="s")
    addresses = {host: [one.private_ip for one in others(cluster, host)] for host in chosen}

    def make(repairs: Repairs) -> None:
        def slow(host: Host) -> None:
            device = _DEVICE.format(address=addresses[host][0])
            repairs.plan(f"remove netem from {host}", _remove, cluster, [host], device=device)
            filters = "".join(
                f" && tc filter add dev $dev parent 1: protocol ip u32 match ip dst {address}/32 flowid {_BAND}"
                for address in addresses[host]
            )
            done = host.run(
                f"{device} && tc qdisc add dev $dev root handle 1: prio bands 4"
                f" && tc qdisc add dev $dev parent {_BAND} netem delay {round(seconds * 1000)}ms{filters}",
                sudo=True,
                check=False,
            )
            if done.status:
                raise FaultError(
                    f"{host} cannot delay packets: its kernel offers no netem (CONFIG_NET_SCH_NETEM), or tc refuses "
                    f"it: {done.stderr.strip()}; throttle() and lose() need nftables only"
                )

        at_once(chosen, slow)

    return Fault(f"delay what {listed(chosen)} sends to the cluster by {seconds:g} s", make)


@undoes("remove netem", Turn.NETWORK)
def _remove(cluster: Cluster, hosts: Sequence[Host], *, device: str) -> None:
    (host,) = hosts
    # Without netem the first command may have worked, the second not.
    left = host.run(
        f"{device} && {{ tc qdisc del dev $dev root handle 1: 2>/dev/null; tc qdisc show dev $dev; }}", sudo=True
    ).stdout
    if "netem" in left or "prio 1:" in left:
        raise FaultError(f"tc still shows {left.strip()}")
