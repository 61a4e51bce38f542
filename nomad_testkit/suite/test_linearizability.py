"""Consul's KV is linearizable while a sequence of faults goes over its servers; a seed decides and replays it.

    pytest -m linearizability --nomad-fault-time 120

One cluster is deployed for these tests, which no others see. Its history, and what was done to it, stay in the folder
of the artifacts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nomad_testkit import Cluster, Example, Settings, deployed
from nomad_testkit.checks import Leader, RaftPeers
from nomad_testkit.errors import CheckFailed
from nomad_testkit.faults import Faults, FaultStep, check_kv, get_checker

if TYPE_CHECKING:
    from nomad_testkit.targets import Target

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.linearizability,
    pytest.mark.nomad_topology("colocated"),
    pytest.mark.usefixtures("nomad_topology"),
    # Several workers of pytest-xdist would deploy a cluster each.
    pytest.mark.xdist_group("linearizability"),
]

PEER_RETURNS = "1s"
"""Until a server that came back has its vote again, instead of the default's 10 s."""


@pytest.fixture(scope="module")
def nomad_cluster(nomad_settings: Settings, nomad_example: Example, nomad_target: Target) -> Iterator[Cluster]:
    """A cluster that only these tests use; without clients, unless the user says how many."""
    get_checker(None, log.info)  # what it lacks is told before anything is deployed
    settings, sizes = nomad_settings, nomad_example.size_variables("nomad_clients")
    if settings.clients is None and len(sizes) == 1 and None not in sizes:
        settings = replace(settings, clients=0)
    with deployed(settings, nomad_example.with_settings(settings), target=nomad_target, progress=log.info) as cluster:
        path = "/v1/operator/autopilot/configuration"
        cluster.consul.put(path, {**cluster.consul.get(path), "ServerStabilizationTime": PEER_RETURNS})
        yield cluster


@pytest.fixture(autouse=True)
def healthy(nomad_cluster: Cluster, nomad_settings: Settings) -> None:
    """Wait until nothing is left of what the test before did."""
    servers = len(nomad_cluster.consul_servers)
    nomad_cluster.require(RaftPeers(servers, ("consul",)), Leader(), within=nomad_settings.heal_timeout)


def test_consul_kv_is_linearizable_under_a_sequence_of_faults(
    nomad_cluster: Cluster,
    nomad_faults: Faults,
    nomad_settings: Settings,
    nomad_fault_seed: int,
    nomad_fault_replay: str,
    request: pytest.FixtureRequest,
) -> None:
    outcome = check_kv(
        nomad_cluster,
        nomad_faults,
        seed=nomad_fault_seed,
        seconds=nomad_settings.fault_time,
        artifacts=nomad_settings.artifacts,
        replay=nomad_fault_replay,
    )
    request.node.user_properties.append(("linearizability", str(outcome)))
    assert {one.server for one in outcome.operations if one.outcome == "ok"} == {
        host.instance_id for host in nomad_cluster.consul_servers
    }


def test_stale_reads_of_a_server_that_is_cut_off_are_found(
    nomad_cluster: Cluster, nomad_faults: Faults, nomad_fault_seed: int
) -> None:
    cut_off = [FaultStep("partition", 1, pause=1, lasts=4)]
    with pytest.raises(CheckFailed) as caught:
        check_kv(nomad_cluster, nomad_faults, seed=nomad_fault_seed, seconds=1, sequence=cut_off, reads="stale")
    assert str(caught.value).startswith("Consul KV is not linearizable with stale reads: ")
    assert f"--nomad-fault-seed {nomad_fault_seed} --nomad-fault-time 1" in str(caught.value)
    log.info("%s", caught.value)
