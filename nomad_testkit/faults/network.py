"""Faults of the network between hosts: partitions, blocked ports, lost packets, slow links.

Each is an nftables table of its own on the hosts, which is removed to undo it: so it works on any EC2, and several at
once do not disturb each other. A host drops what arrives, as a network does that loses it: who sends notices nothing.
It drops before connections are tracked, and also what is forwarded to a task in a network namespace. Nothing but
packets of the cluster's own hosts is dropped, unless it says otherwise, so SSH from this machine goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError, UsageError
from nomad_testkit.faults.agents import at_once
from nomad_testkit.faults.arguments import flag, number, whole
from nomad_testkit.faults.fault import Fault, listed, own
from nomad_testkit.faults.repairs import Repairs, Turn, undoes

_TABLE = "nomad_testkit_fault_"


def partition(cluster: Cluster, side: Sequence[Host], other: Sequence[Host], *, one_way: bool) -> Fault:
    """Make the fault that cuts `side` off from `other`; `one_way` drops only what goes from `side` to `other`.

    Raises UsageError for a host that is on both sides.
    """
    flag("one_way", one_way)
    side, other = own(cluster, side), own(cluster, other)
    if both := [host for host in side if host in other]:
        raise UsageError(
            f"a partition cannot have a host on both sides: {listed(both)} is in ({listed(side)}) and in "
            f"({listed(other)}); nothing was done to any of them"
        )
    rules = {host: [_drop_from(side)] for host in other}
    if not one_way:
        rules |= {host: [_drop_from(other)] for host in side}
    arrow = "no more reaches" if one_way else "is cut off from"
    return filtered(cluster, rules, f"partition: {listed(side)} {arrow} {listed(other)}")


def block_port(cluster: Cluster, port: int, hosts: Sequence[Host]) -> Fault:
    """Make the fault that drops what anyone but the host itself sends to a port, over TCP and UDP.

    Raises UsageError for the port of SSH.
    """
    chosen = own(cluster, hosts)
    port = whole("port", port, least=1, most=65535)
    if closed := [host for host in chosen if host.ssh.port == port]:
        raise UsageError(
            f"port {port} is that of SSH on {listed(closed)}, and without it the fault could not be undone"
        )
    rule = f'iifname != "lo" meta l4proto {{ tcp, udp }} th dport {port} drop'
    return filtered(cluster, {host: [rule] for host in chosen}, f"block port {port} on {listed(chosen)}")


def lose(cluster: Cluster, share: float, hosts: Sequence[Host]) -> Fault:
    """Make the fault that loses a share of the packets that hosts get from others of the cluster (`numgen random`)."""
    chosen = own(cluster, hosts)
    lost = round(number("share of packets to lose", share, least=0.001, most=1) * 1000)
    rules = {host: [f"{_from(others(cluster, host))} numgen random mod 1000 < {lost} drop"] for host in chosen}
    return filtered(cluster, rules, f"lose {share:.1%} of what {listed(chosen)} gets from the cluster")


def throttle(cluster: Cluster, kilobytes: int, hosts: Sequence[Host]) -> Fault:
    """Make the fault that limits what hosts get from others of the cluster to a rate (nftables' `limit`)."""
    chosen = own(cluster, hosts)
    kilobytes = whole("kilobytes a second", kilobytes, least=1)
    # The burst is what a second has, but never less than a few full packets, without which TCP would not get anywhere.
    limit = f"limit rate over {kilobytes} kbytes/second burst {max(kilobytes, 16)} kbytes"
    rules = {host: [f"{_from(others(cluster, host))} {limit} drop"] for host in chosen}
    return filtered(cluster, rules, f"throttle what {listed(chosen)} gets from the cluster to {kilobytes} kB/s")


def filtered(cluster: Cluster, rules: Mapping[Host, Sequence[str]], what: str) -> Fault:
    """Make the fault that has a table with some rules for arriving packets on each host."""

    def make(repairs: Repairs) -> None:
        table = _TABLE + secrets.token_hex(4)
        # Look everywhere first: half a partition would isolate nothing.
        at_once(list(rules), _require_nft)

        def close(host: Host) -> None:
            lines = "".join(f"    {rule}\n" for rule in rules[host])
            chain = f"  chain arriving {{\n    type filter hook prerouting priority -310; policy accept;\n{lines}  }}\n"
            repairs.plan(f"remove the nftables table {table} on {host}", _open, cluster, [host], table=table)
            host.run(f"nft -f - <<'EOF'\ntable inet {table} {{\n{chain}}}\nEOF", sudo=True)

        at_once(list(rules), close)

    return Fault(what, make)


@undoes("remove nftables table", Turn.NETWORK)
def _open(cluster: Cluster, hosts: Sequence[Host], *, table: str) -> None:
    """Remove a table, and prove that it is gone; a host that was rebooted has none any more."""
    (host,) = hosts
    # Where nft itself fails, nothing is proved.
    tables = host.run(f"nft delete table inet {table} 2>/dev/null; nft list tables", sudo=True).stdout
    if f"table inet {table}" in tables.splitlines():
        raise FaultError(f"nft still lists table inet {table}")


def _require_nft(host: Host) -> None:
    found = host.run("nft list tables", sudo=True, check=False)
    if found.status:
        raise FaultError(
            f"{host} cannot filter its network: `nft list tables` ended with status {found.status}: "
            f"{found.stderr.strip()}; install the package nftables on its image, and use a kernel that has nf_tables"
        )


def others(cluster: Cluster, host: Host) -> list[Host]:
    """List the other hosts of a cluster. Raises UsageError if it has no others."""
    found = [one for one in cluster.hosts if one is not host]
    if not found:
        raise UsageError(
            f"{host} is the only host of {cluster.run_id}, and so has no other to get packets from, or to send them to"
        )
    return found


def _from(hosts: Sequence[Host]) -> str:
    return f"ip saddr {{ {', '.join(host.private_ip for host in hosts)} }}"


def _drop_from(hosts: Sequence[Host]) -> str:
    return f"{_from(hosts)} drop"
