"""Time whole deployments of the colocated example on the embedded EC2, and the floor beside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nomad_testkit.checks import AllocationsRunning
from nomad_testkit.cli.bench.floor import FloorHost, measure
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.events import Progress

FIRST_JOB = "first job running"
TEARDOWN = "teardown"
_CONSUL_CONFIG = "/opt/consul/config/default.json"
_NOMAD_CONFIG = "/opt/nomad/config/default.hcl"


@dataclass
class Figures:
    """Seconds of each phase, one value a run."""

    phases: dict[str, list[float]] = field(default_factory=dict)

    def add(self, phases: Mapping[str, float]) -> None:
        """Add one run's."""
        for name, seconds in phases.items():
            self.phases.setdefault(name, []).append(seconds)


def table(deployed: Figures, floor: Figures, memory: Sequence[int]) -> str:
    """Draw the figures as a table that a terminal and Markdown both show.

    >>> print(table(Figures({"hosts up": [1.0, 3.0]}), Figures(), [2**20]))
    | phase (s)        |  minimum |   median |  maximum |    floor |
    |------------------|---------:|---------:|---------:|---------:|
    | hosts up         |     1.00 |     2.00 |     3.00 |        - |
    <BLANKLINE>
    memory of all hosts: 1 MiB at most, page cache and disks included
    """
    lines = [
        f"| {'phase (s)':16} | {'minimum':>8} | {'median':>8} | {'maximum':>8} | {'floor':>8} |",
        f"|{'-' * 18}|" + f"{'-' * 9}:|" * 4,
    ]
    for name, values in deployed.phases.items():
        below = floor.phases.get(name)
        figures = [min(values), statistics.median(values), max(values)]
        cells = [f"{value:8.2f}" for value in figures] + [f"{statistics.median(below):8.2f}" if below else f"{'-':>8}"]
        lines.append(f"| {name:16} | {' | '.join(cells)} |")
    lines += ["", f"memory of all hosts: {max(memory) / 2**20:.0f} MiB at most, page cache and disks included"]
    return "\n".join(lines)


def run_bench(
    runs: int,
    *,
    deploy_once: Callable[[Callable[[Cluster], None]], Mapping[str, float]],
    memory_bytes: Callable[[Cluster], int],
    agents: Mapping[str, str],
    progress: Progress,
) -> str:
    """Deploy `runs` times and measure the floor as often; gives the table.

    `deploy_once` deploys, calls what it is given with the cluster, destroys, and gives the phases it timed.
    """
    from pathlib import Path

    deployed, floor = Figures(), Figures()
    memory: list[int] = []
    hosts: list[FloorHost] = []
    for number in range(1, runs + 1):
        progress(f"deployment {number} of {runs}")
        first_job: dict[str, float] = {}

        def use(cluster: Cluster, first_job: dict[str, float] = first_job) -> None:
            started = time.monotonic()
            with cluster.submitted("web.nomad.hcl") as job:
                cluster.require(AllocationsRunning(job), within=60)
                first_job[FIRST_JOB] = time.monotonic() - started
            memory.append(memory_bytes(cluster))
            hosts[:] = [_floor_host(cluster, index) for index in range(len(cluster.hosts))]

        phases = dict(deploy_once(use))
        teardown = phases.pop(TEARDOWN)
        deployed.add({**phases, **first_job, TEARDOWN: teardown})
    for number in range(1, runs + 1):
        progress(f"floor {number} of {runs}")
        floor.add(measure(hosts, consul=Path(agents["consul"]), nomad=Path(agents["nomad"])))
    return table(deployed, floor, memory)


def _floor_host(cluster: Cluster, index: int) -> FloorHost:
    host = cluster.hosts[index]
    subnets = {subnet.availability_zone: subnet.cidr for subnet in cluster.target.network().subnets}
    return FloorHost(
        name=f"host{index}",
        address=host.private_ip,
        subnet=subnets[host.instance.availability_zone],
        server=host in cluster.nomad_servers,
        consul=host.read(_CONSUL_CONFIG, sudo=True),
        nomad=host.read(_NOMAD_CONFIG, sudo=True),
    )
