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


def since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each owner has used between two samples; what has ended in between counts as nothing less than 0."""
    return {owner: max(0.0, used - before.get(owner, 0.0)) for owner, used in after.items()}


def cpu_table(runs: Sequence[Mapping[str, float]]) -> str:
    """Draw the CPU-seconds of a deployment by who used them, the most first.

    >>> print(cpu_table([{"agents: nomad": 2.0}, {"agents: nomad": 3.0, "hosts: sshd": 1.0}]))
    | CPU-seconds by owner                                     |  minimum |   median |  maximum |
    |----------------------------------------------------------|---------:|---------:|---------:|
    | agents: nomad                                            |     2.00 |     2.50 |     3.00 |
    | hosts: sshd                                              |     0.00 |     0.50 |     1.00 |
    | all                                                      |     2.00 |     3.00 |     4.00 |
    """
    owners = {owner: [run.get(owner, 0.0) for run in runs] for run in runs for owner in run}
    rows = sorted(owners.items(), key=lambda row: -statistics.median(row[1]))
    rows.append(("all", [sum(run.values()) for run in runs]))
    lines = [
        f"| {'CPU-seconds by owner':56} | {'minimum':>8} | {'median':>8} | {'maximum':>8} |",
        f"|{'-' * 58}|" + f"{'-' * 9}:|" * 3,
    ]
    for owner, values in rows:
        cells = " | ".join(f"{value:8.2f}" for value in (min(values), statistics.median(values), max(values)))
        lines.append(f"| {owner:56} | {cells} |")
    return "\n".join(lines)


def run_bench(
    runs: int,
    *,
    deploy_once: Callable[[Callable[[Cluster], None]], Mapping[str, float]],
    memory_bytes: Callable[[Cluster], int],
    cpu_by_owner: Callable[[], Mapping[str, float]],
    agents: Mapping[str, str],
    progress: Progress,
) -> str:
    """Deploy `runs` times and measure the floor as often; gives the table.

    `deploy_once` deploys, calls what it is given with the cluster, destroys, and gives the phases it timed.
    """
    from pathlib import Path

    deployed, floor = Figures(), Figures()
    memory: list[int] = []
    cpu: list[Mapping[str, float]] = []
    hosts: list[FloorHost] = []
    for number in range(1, runs + 1):
        progress(f"deployment {number} of {runs}")
        first_job: dict[str, float] = {}
        before = cpu_by_owner()

        def use(
            cluster: Cluster, first_job: dict[str, float] = first_job, before: Mapping[str, float] = before
        ) -> None:
            # The cloud outlives its deployments, and its threads count on.
            cpu.append(since(before, cpu_by_owner()))
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
    return f"{table(deployed, floor, memory)}\n\n{cpu_table(cpu)}"


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
