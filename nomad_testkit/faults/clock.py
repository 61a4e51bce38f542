"""A clock that is wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nomad_testkit.cluster import Cluster
from nomad_testkit.errors import FaultError, UsageError
from nomad_testkit.faults.agents import at_once
from nomad_testkit.faults.fault import Fault, Repairs, listed, on_host, own
from nomad_testkit.host import Host

_KEEPERS = "chrony chronyd systemd-timesyncd ntp ntpd ntpsec"
"""The units that would set the clock right again."""
_STILL = 2.0
"""Seconds that a clock may be off when it was set back."""


def shift_clock(cluster: Cluster, seconds: float, hosts: Sequence[Host]) -> Fault:
    """Make the fault that sets the clocks of hosts forward, or back where `seconds` is negative.

    Raises FaultError, when it is used, on hosts that share their kernel, and so its clock, with others. Those of the
    embedded EC2 do: time namespaces have no wall clock of their own (time_namespaces(7)), and the agents, linked
    statically, would not see one that a library preloaded into them pretends.
    """
    chosen = own(cluster, hosts)
    if not seconds:
        raise UsageError("a clock that is shifted by 0 s is right; give the seconds, negative for the past")

    def make(repairs: Repairs) -> None:
        at_once(chosen, _require_a_clock)

        def shift(host: Host) -> None:
            active = host.run(
                f"for u in {_KEEPERS}; do systemctl is-active -q $u && echo $u; done; true"
            ).stdout.split()
            before = _offset(host)
            repairs.add(
                f"set the clock of {host} right",
                on_host(cluster, host, lambda: _set_right(host, active, before)),
            )
            stop = f"systemctl stop {' '.join(active)} && " if active else ""
            host.run(f"{stop}date -u -s @$(($(date +%s) + {round(seconds)}))", sudo=True)

        at_once(chosen, shift)

    return Fault(f"shift the clock of {listed(chosen)} by {seconds:+g} s", make)


def _require_a_clock(host: Host) -> None:
    found = host.run("systemd-detect-virt --container", check=False).stdout.strip()
    if found not in ("none", ""):
        raise FaultError(
            f"{host} has no clock of its own: it is a container ({found}), which shares this machine's kernel and "
            "clock; shift clocks on instances of AWS"
        )


def _offset(host: Host) -> float:
    """Tell how far a host's clock is ahead of this machine's, in seconds."""
    return float(host.run("date +%s.%N").stdout) - time.time()


def _set_right(host: Host, keepers: Sequence[str], offset: float) -> None:
    host.run(f"date -u -s @{time.time() + offset:.3f}", sudo=True)
    if keepers:
        host.run(f"systemctl start {' '.join(keepers)}", sudo=True)
    if abs(off := _offset(host) - offset) > _STILL:
        raise FaultError(f"its clock is still {off:+.1f} s off")
