"""Clusters of hosts that only note what is run on them, for faults to be made in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from recording_host import RecordingHost

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.errors import FaultError
from nomad_testkit.examples.example import Roles
from nomad_testkit.faults import Fault

ROLES = Roles(("servers",), ("servers",), ("clients",))


def recording_hosts(servers: int, clients: int) -> list[RecordingHost]:
    """Make hosts i-1, i-2 and so on, the servers first."""
    groups = ["servers"] * servers + ["clients"] * clients
    return [RecordingHost(number, group) for number, group in enumerate(groups, 1)]


def cluster_of(hosts: list[Any], folder: Path, target: object = None) -> Cluster:
    """Make cluster nt-1 of these hosts, with its run's files in a folder."""
    return Cluster("nt-1", cast("Any", target), hosts, ROLES, "admin", folder / "key")


def refused(fault: Fault, match: str) -> FaultError:
    """Make a fault that has to be refused, and give the error."""
    with pytest.raises(FaultError, match=match) as caught, fault:
        pytest.fail("it was made")
    return caught.value
