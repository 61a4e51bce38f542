"""A clock that is wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError, UsageError
from nomad_testkit.faults.agents import at_once
from nomad_testkit.faults.arguments import whole
from nomad_testkit.faults.fault import Fault, listed, own
from nomad_testkit.faults.repairs import Repairs, Turn, undoes

_KEEPERS = "chrony chronyd systemd-timesyncd ntp ntpd ntpsec"
"""The units that would set the clock right again."""
_MOST = 10 * 365 * 86400
"""Seconds that a clock can be shifted by: more would be a mistake."""
_STILL = 2.0
"""Seconds that a clock may be off when it was set back."""


def shift_clock(cluster: Cluster, seconds: float, hosts: Sequence[Host]) -> Fault:
    """Make the fault that sets the clocks of hosts forward, or back where `seconds` is negative.

    Raises FaultError, when it is used, on hosts that share their kernel, and so its clock, with others. Those of the
    embedded EC2 do: time namespaces have no wall clock of their own (time_namespaces(7)), and the agents, linked
    statically, would not see one that a library preloaded into them pretends.
    """
    chosen = own(cluster, hosts)
    seconds = whole("seconds to shift the clock by", seconds, least=-_MOST, most=_MOST, unit="s")
    if not seconds:
        raise UsageError("seconds to shift the clock by: expected 1 or more, or -1 or less for the past, found 0")

    def make(repairs: Repairs) -> None:
        at_once(chosen, _require_a_clock)

        def shift(host: Host) -> None:
            active = host.run(
                f"for u in {_KEEPERS}; do systemctl is-active -q $u && echo $u; done; true"
            ).stdout.split()
            before = _offset(host)
            repairs.plan(f"set the clock of {host} right", _set_right, cluster, [host], keepers=active, offset=before)
            stop = f"systemctl stop {' '.join(active)} && " if active else ""
            host.run(f"{stop}date -u -s @$(($(date +%s) + {seconds}))", sudo=True)

        at_once(chosen, shift)

    return Fault(f"shift the clock of {listed(chosen)} by {seconds:+d} s", make)


def _require_a_clock(host: Host) -> None:
    found = host.run("systemd-detect-virt --container", check=False).stdout.strip()
    if not found:  # the clock that would be set may be this machine's
        raise FaultError(
            f"{host} may have no clock of its own: expected `systemd-detect-virt --container` to print none, "
            "and it printed nothing"
        )
    if found != "none":
        raise FaultError(
            f"{host} has no clock of its own: it is a container ({found}), which shares this machine's kernel and "
            "clock; shift clocks on instances of AWS"
        )


def _offset(host: Host) -> float:
    """Tell how far a host's clock is ahead of this machine's, in seconds."""
    return float(host.run("date +%s.%N").stdout) - time.time()


@undoes("set clock right", Turn.HOST)
def _set_right(cluster: Cluster, hosts: Sequence[Host], *, keepers: Sequence[str], offset: float) -> None:
    (host,) = hosts
    _require_a_clock(host)  # whatever a file says: a container's clock is this machine's
    host.run(f"date -u -s @{time.time() + offset:.3f}", sudo=True)
    if keepers:
        host.run(f"systemctl start {' '.join(keepers)}", sudo=True)
    if abs(off := _offset(host) - offset) > _STILL:
        raise FaultError(f"its clock is still {off:+.1f} s off")
