"""The plugin's fixtures: each a `with` over a context manager that knows nothing of pytest."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from nomad_testkit.errors import PackerError, PreflightError, UsageError
from nomad_testkit.plugin import topologies
from nomad_testkit.plugin.session import ASKED_FOR, FINISHING, join_workers, progress_of, usable_settings
from nomad_testkit.plugin.xdist_credentials import ask_for_roles

if TYPE_CHECKING:
    from pathlib import Path

    from nomad_testkit.cluster.clients import ConsulClient, NomadClient
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.examples.example import Example
    from nomad_testkit.faults import Faults
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets import Target


@pytest.fixture(scope="session")
def nomad_settings(pytestconfig: pytest.Config) -> Settings:
    """The plugin's settings: option > environment > ini > default."""
    return usable_settings(pytestconfig)


@pytest.fixture(scope="session")
def nomad_topology(request: pytest.FixtureRequest) -> str:
    """The topology that a test's mark asks for, ``colocated`` or ``separate``; without a mark, colocated."""
    return str(getattr(request, "param", None) or topologies.DEFAULT)


@pytest.fixture(scope="session")
def nomad_example(nomad_settings: Settings, nomad_topology: str) -> Example:
    """The example to deploy; override it in conftest.py to deploy another, or with other values."""
    from nomad_testkit.examples.settings import chosen_example

    with _refused_without_traceback():
        if nomad_settings.attach:
            from nomad_testkit.plugin.attaching import attached_example

            return attached_example(nomad_settings)
        return chosen_example(nomad_settings, topologies.TOPOLOGIES[nomad_topology])


@pytest.fixture(scope="session")
def nomad_target(nomad_settings: Settings, pytestconfig: pytest.Config) -> Iterator[Target]:
    """Where clusters are deployed to: a session's own EC2, opened when it is first used."""
    from nomad_testkit.plugin import xdist_cluster

    if nomad_settings.target == "aws":
        ask_for_roles(pytestconfig)
    with (
        _refused_without_traceback(),
        xdist_cluster.target(join_workers(pytestconfig), nomad_settings, progress_of(pytestconfig)) as target,
    ):
        yield target


@pytest.fixture(scope="session")
def nomad_cluster(
    nomad_settings: Settings,
    nomad_topology: str,
    nomad_example: Example,
    nomad_target: Target,
    pytestconfig: pytest.Config,
) -> Iterator[Cluster]:
    """The cluster that nomad_example makes, ready; destroyed when no more test is for it."""
    from nomad_testkit.examples.settings import changed
    from nomad_testkit.plugin import xdist_cluster

    workers, progress = join_workers(pytestconfig), progress_of(pytestconfig)
    with _refused_without_traceback():
        example, asked = nomad_example, pytestconfig.stash.get(ASKED_FOR, ())
        if nomad_settings.attach:
            from nomad_testkit.plugin.attaching import refuse_topology

            refuse_topology(nomad_settings, asked, nomad_topology)
        else:
            example = changed(nomad_example, nomad_settings)  # an example that conftest.py chose, too
            topologies.refuse_another(example, asked, nomad_topology)
    with (
        _refused_without_traceback(),
        _interrupted(pytestconfig),
        xdist_cluster.cluster(workers, nomad_settings, example, nomad_target, progress) as cluster,
    ):
        yield cluster


@pytest.fixture
def nomad_faults(nomad_cluster: Cluster) -> Iterator[Faults]:
    """What can be done to the hosts of the cluster; what is left of it when the test is over is undone then."""
    from nomad_testkit.faults import Faults

    with Faults(nomad_cluster) as faults:
        yield faults


@pytest.fixture(scope="session")
def nomad_fault_seed(nomad_settings: Settings, pytestconfig: pytest.Config) -> int:
    """The seed of a sequence of faults: --nomad-fault-seed, or else a fresh one, which is shown."""
    if nomad_settings.fault_seed is not None:
        return nomad_settings.fault_seed
    seed = secrets.randbelow(10**9)
    progress_of(pytestconfig)(f"the faults have the seed {seed}; --nomad-fault-seed {seed} replays them")
    return seed


@pytest.fixture
def nomad_fault_replay(request: pytest.FixtureRequest, nomad_settings: Settings, nomad_fault_seed: int) -> str:
    """The command that runs this test again, with the same faults; for the message of its failure."""
    config, test = request.config, f"{request.path}::{request.node.nodeid.partition('::')[2]}"
    given = [arg for arg in config.invocation_params.args if str(arg) not in config.args]
    seed = ["--nomad-fault-seed", nomad_fault_seed, "--nomad-fault-time", f"{nomad_settings.fault_time:g}"]
    return shlex.join(map(str, ["pytest", *given, test, *seed]))


@pytest.fixture(scope="session")
def nomad_template() -> Path | None:
    """The Packer template of nomad_ami; override it with one of your own that has the bundled one's variables."""
    return None


@pytest.fixture(scope="session")
def nomad_ami(
    nomad_settings: Settings, nomad_template: Path | None, nomad_target: Target, pytestconfig: pytest.Config
) -> Iterator[str]:
    """The id of an AMI that Packer builds for this session, deleted at its end; with --nomad-ami that one."""
    from nomad_testkit.plugin import xdist_cluster

    workers, progress = join_workers(pytestconfig), progress_of(pytestconfig)
    with (
        _refused_without_traceback(),
        _interrupted(pytestconfig),
        xdist_cluster.ami(workers, nomad_settings, nomad_template, nomad_target, progress) as ami,
    ):
        yield ami


@pytest.fixture(scope="session")
def nomad_ami_host(
    nomad_settings: Settings, nomad_ami: str, nomad_example: Example, nomad_target: Target, pytestconfig: pytest.Config
) -> Iterator[Host]:
    """An instance of nomad_ami, without user data; nomad_example says which user it lets in."""
    from nomad_testkit.deployment.ami_login import login_user
    from nomad_testkit.deployment.amis import launched

    user = login_user(nomad_example, nomad_settings, nomad_ami)
    how: dict[str, Any] = {"target": nomad_target, "progress": progress_of(pytestconfig)}
    with (
        _interrupted(pytestconfig),
        launched(nomad_settings, nomad_ami, ssh_user=user, **how) as host,
    ):
        yield host


@pytest.fixture
def nomad_api(nomad_cluster: Cluster) -> NomadClient:
    """The API of the cluster's Nomad leader."""
    return nomad_cluster.nomad


@pytest.fixture
def consul_api(nomad_cluster: Cluster) -> ConsulClient:
    """The API of the cluster's Consul leader."""
    return nomad_cluster.consul


@contextmanager
def _refused_without_traceback() -> Iterator[None]:
    """Show what a user has to change, in a setting, an example, a Packer template or an account, as one message."""
    try:
        yield
    except (UsageError, PackerError, PreflightError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@contextmanager
def _interrupted(config: pytest.Config) -> Iterator[None]:
    """End the session with the status of an interrupt, where pytest takes none any more: it would show a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        if (session := config.stash.get(FINISHING, None)) is None:
            raise
        session.exitstatus = pytest.ExitCode.INTERRUPTED
