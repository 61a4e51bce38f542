"""The checks of which agent runs where fail on a cluster whose agents run elsewhere, and say on which host."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from nomad_testkit import Cluster, Example
from nomad_testkit.checks import ConsulAgents, SeparateServers
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

log = logging.getLogger(__name__)

pytestmark = pytest.mark.separate

CONFIGURATION = "/opt/consul/config/default.json"
WITHIN = 120.0


@pytest.fixture(name="cluster", scope="module")
def _cluster(nomad_settings: Settings, nomad_target: Target) -> Iterator[Cluster]:
    """A cluster that only these tests use, since what they break is not mended."""
    example = Example.load("nomad-consul-separate-cluster").replace(
        num_consul_servers=1, num_nomad_servers=1, num_nomad_clients=1
    )
    with deployed(nomad_settings, example, target=nomad_target, progress=log.info) as made:
        yield made


def test_a_client_without_a_consul_agent_and_a_nomad_server_that_is_a_consul_server(cluster: Cluster) -> None:
    agents, separate = ConsulAgents(), SeparateServers()
    cluster.require(agents, separate, within=WITHIN)
    (client,), (server,) = cluster.nomad_clients, cluster.nomad_servers

    client.run("systemctl stop consul", sudo=True)

    def missed() -> Ok[None] | Pending:
        verdict = agents.verdict(cluster)
        wanted = isinstance(verdict, Pending) and f"no Consul client on {client.instance_id}" in verdict.seen
        return Ok(None) if wanted else Pending(str(verdict))

    wait_until("the client's Consul agent to be missed", missed, deadline=Deadline.after(WITHIN))
    assert isinstance(separate.verdict(cluster), Ok)
    client.run("systemctl start consul", sudo=True)
    cluster.require(agents, within=WITHIN)

    server.run(f'sed -i \'s/"server": false/"server": true/\' {CONFIGURATION}', sudo=True)
    server.run("systemctl restart consul", sudo=True)
    broken: dict[str, Broken] = {}

    def mixed() -> Ok[None] | Pending:
        verdicts = {"agents": agents.verdict(cluster), "separate": separate.verdict(cluster)}
        broken.update({name: one for name, one in verdicts.items() if isinstance(one, Broken)})
        return Ok(None) if broken.keys() == verdicts.keys() else Pending(str(verdicts))

    wait_until("both checks to be broken", mixed, deadline=Deadline.after(WITHIN))
    assert f"a Consul server on {server.instance_id}" in broken["agents"].reason
    assert f"peers of both Consul and Nomad: {server.instance_id}" in broken["separate"].reason
