"""The pytest plugin: settings, markers, fixtures and the evidence of failures.

Everything heavy is imported when a fixture is used: an installed plugin is loaded by every pytest run on the machine.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest

from nomad_testkit import topologies
from nomad_testkit.errors import PackerError, SettingsError, UsageError
from nomad_testkit.settings import Settings, table

if TYPE_CHECKING:
    from pathlib import Path

    from nomad_testkit.clients import ConsulClient, NomadClient
    from nomad_testkit.cluster import Cluster
    from nomad_testkit.examples import Example
    from nomad_testkit.faults import Faults
    from nomad_testkit.file_lock import FileLock
    from nomad_testkit.host import Host
    from nomad_testkit.model import Progress
    from nomad_testkit.sharing import Sharing
    from nomad_testkit.targets import Target

logger = logging.getLogger(__name__)

_MARKERS = {
    "colocated": "the main job: a cluster with Nomad and Consul servers on the same hosts",
    "separate": "a cluster with Nomad and Consul servers on hosts of their own",
    "encrypted": "a cluster with TLS, encrypted gossip and ACLs on both agents",
    "ami": "an image for hosts, looked at on one instance",
    "faults": "a cluster whose agents, instances and network are made to fail, and that has to heal",
    "operations": "a cluster that is drained, scaled, replaced and restored while it runs",
    "nomad_topology(name, ...)": "run the test with a cluster of each topology: colocated, separate or encrypted",
}
_SHARED = ("nomad_target", "nomad_cluster")
_settings = pytest.StashKey[Settings | SettingsError]()
_sharing = pytest.StashKey["Sharing"]()
_finishing = pytest.StashKey[pytest.Session]()
_workers_said = pytest.StashKey[list[str]]()
_starting = pytest.StashKey[dict[str, "FileLock | None"]]()
_asked_for = pytest.StashKey[tuple[str, ...]]()
_run = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def nomad_settings(pytestconfig: pytest.Config) -> Settings:
    """The plugin's settings: option > environment > ini > default."""
    return _usable_settings(pytestconfig)


@pytest.fixture(scope="session")
def nomad_topology(request: pytest.FixtureRequest) -> str:
    """The topology that a test's mark asks for, ``colocated`` or ``separate``; without a mark, colocated."""
    return str(getattr(request, "param", None) or topologies.DEFAULT)


@pytest.fixture(scope="session")
def nomad_example(nomad_settings: Settings, nomad_topology: str) -> Example:
    """The example to deploy; override it in conftest.py to deploy another, or with other values."""
    from nomad_testkit.example_settings import chosen_example

    with _refused_without_traceback():
        return chosen_example(nomad_settings, topologies.TOPOLOGIES[nomad_topology])


@pytest.fixture(scope="session")
def nomad_target(nomad_settings: Settings, pytestconfig: pytest.Config) -> Iterator[Target]:
    """Where clusters are deployed to: a session's own EC2, opened when it is first used."""
    from nomad_testkit import sharing

    with sharing.target(_join(pytestconfig), nomad_settings, _progress(pytestconfig)) as target:
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
    from nomad_testkit import sharing
    from nomad_testkit.example_settings import changed

    join, progress = _join(pytestconfig), _progress(pytestconfig)
    with _refused_without_traceback():
        example = changed(nomad_example, nomad_settings)  # an example that conftest.py chose, too
        topologies.refuse_another(example, pytestconfig.stash.get(_asked_for, ()), nomad_topology)
    with (
        _interrupted(pytestconfig),
        sharing.cluster(join, nomad_settings, example, nomad_target, progress) as cluster,
    ):
        yield cluster


@pytest.fixture
def nomad_faults(nomad_cluster: Cluster) -> Iterator[Faults]:
    """What can be done to the hosts of the cluster; what is left of it when the test is over is undone then."""
    from nomad_testkit.faults import Faults

    with Faults(nomad_cluster) as faults:
        yield faults


@pytest.fixture(scope="session")
def nomad_template() -> Path | None:
    """The Packer template of nomad_ami; override it with one of your own that has the bundled one's variables."""
    return None


@pytest.fixture(scope="session")
def nomad_ami(
    nomad_settings: Settings, nomad_template: Path | None, nomad_target: Target, pytestconfig: pytest.Config
) -> Iterator[str]:
    """The id of an AMI that Packer builds for this session, deleted at its end; with --nomad-ami that one."""
    from nomad_testkit import sharing

    join, progress = _join(pytestconfig), _progress(pytestconfig)
    with (
        _refused_without_traceback(),
        _interrupted(pytestconfig),
        sharing.ami(join, nomad_settings, nomad_template, nomad_target, progress) as ami,
    ):
        yield ami


@pytest.fixture(scope="session")
def nomad_ami_host(
    nomad_settings: Settings, nomad_ami: str, nomad_example: Example, nomad_target: Target, pytestconfig: pytest.Config
) -> Iterator[Host]:
    """An instance of nomad_ami, without user data; nomad_example says which user it lets in."""
    from nomad_testkit.amis import launched

    how: dict[str, Any] = {"target": nomad_target, "progress": _progress(pytestconfig)}
    with (
        _interrupted(pytestconfig),
        launched(nomad_settings, nomad_ami, ssh_user=nomad_example.ssh_user, **how) as host,
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option and an ini key for every setting."""
    group = parser.getgroup("nomad_testkit", "nomad_testkit: clusters of Nomad and Consul")
    for setting in table():
        how: dict[str, Any] = {"metavar": setting.metavar, "action": "append" if setting.repeatable else "store"}
        if setting.metavar is None:
            how = {"action": "store_const", "const": "true"}
        group.addoption(setting.option, dest=setting.key, default=None, help=setting.description, **how)
        kind: Literal["linelist", "string"] = "linelist" if setting.repeatable else "string"
        parser.addini(setting.key, setting.description, type=kind)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and refuse settings that cannot be used."""
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    given: dict[str, Any] = {
        "options": {setting.key: config.getoption(setting.key) for setting in table()},
        "ini": {setting.key: config.getini(setting.key) for setting in table()},
        "ini_file": config.inipath or "the ini file",
    }
    try:
        config.stash[_settings] = Settings.load(**given, environ=os.environ)
    except SettingsError as error:
        config.stash[_settings] = error
        # A variable of the environment alone must not end a run that has nothing to do with clusters.
        try:
            Settings.load(**given)
        except SettingsError:
            raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Show the settings in force, and where each came from."""
    settings = config.stash[_settings]
    lines = settings.in_force() if isinstance(settings, Settings) else str(settings).splitlines()
    return [f"nomad_testkit: {line}" for line in lines]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Let pytest-xdist keep the tests of one topology together, unless the user chose how it distributes."""
    option = config.option
    if getattr(option, "numprocesses", None) and option.dist == "no" and not option.distload:
        option.dist = "loadgroup"
    return (yield)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each topology that its marks ask for, marked with that one."""
    if "nomad_topology" not in metafunc.fixturenames:
        return
    try:
        asked = topologies.asked_for(metafunc.definition)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    if set(asked) - {topologies.DEFAULT}:
        # Tests of faults are chosen by their own mark alone: who wants a cluster checked does not want it broken.
        marked = metafunc.definition.get_closest_marker("faults") is None
        # The default one's value is None, as that of tests without a mark, so that they share its cluster.
        params = [
            pytest.param(
                None if name == topologies.DEFAULT else name,
                id=name,
                marks=[getattr(pytest.mark, name)] if marked else [],
            )
            for name in asked
        ]
        metafunc.parametrize("nomad_topology", params, indirect=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    """Keep the tests of one topology together, and give each topology to one worker of pytest-xdist.

    After all other hooks, because only then it is known which topologies are in use: where it is but one, all workers
    share its cluster.
    """
    result = yield
    used = topologies.one_after_the_other(items)
    if len(used) > 1 and hasattr(config, "workerinput"):
        for item in items:
            if (name := topologies.used_by(item)) and item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(name))
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember what the test's marks ask for, for the cluster that it may be the first to use."""
    if topologies.used_by(item):
        item.config.stash[_asked_for] = topologies.asked_for(item)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Where clusters are going to be used, refuse settings that cannot be, and join the other workers.

    First, because pytest-xdist tells from here that this worker has collected: no test of any worker runs before all
    have, and so none can be done with a cluster before all have joined.
    """
    used = any(name in getattr(item, "fixturenames", ()) for item in session.items for name in _SHARED)
    if used and not session.config.option.collectonly:
        _refuse_the_example(_usable_settings(session.config), session.items)
        _join(session.config).tell_groups(topologies.groups(session.items))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Leave the other workers when every fixture has been torn down."""
    session.config.stash[_finishing] = session
    try:
        return (yield)
    finally:
        if (sharing := session.config.stash.get(_sharing, None)) is not None:
            sharing.leave()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect evidence of a failing test that used a cluster, and name its folder in the report."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("nomad_cluster")
    if report.failed and report.when == "call" and cluster is not None:
        report.sections.append(("nomad_testkit", _evidence(item, cluster)))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a comparison with a secret without pytest's comparison of two texts, which would show it."""
    loaded = sys.modules.get("nomad_testkit.run_secrets")
    if loaded is None or not any(isinstance(side, loaded.Secret) for side in (left, right)):
        return None
    return [f"{left!r} {op} {right!r}"]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let the workers of pytest-xdist keep their cluster for one that is about to start, in place of a dead one."""
    from nomad_testkit.runs import state_path
    from nomad_testkit.sharing import expect_worker

    node.config.stash[_run] = node.workerinput["testrunuid"]
    starting = node.config.stash.setdefault(_starting, {})
    starting[node.gateway.id] = expect_worker(state_path(), node.workerinput["testrunuid"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute by the groups that the workers have found, unless the user chose another way than loadgroup."""
    if config.option.dist != "loadgroup":
        return None
    from nomad_testkit import sharing
    from nomad_testkit.runs import state_path
    from nomad_testkit.scheduling import GroupScheduling

    return GroupScheduling(config, log, lambda: sharing.groups(state_path(), config.stash[_run]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """The worker has joined the others by now."""
    _has_started(node)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep what a worker of pytest-xdist had to say of its clusters; it has no terminal of its own."""
    _has_started(node)
    lines = getattr(node, "workeroutput", {}).get("nomad_testkit", ())
    said = node.config.stash.setdefault(_workers_said, [])
    said += [line if "\n" in line else f"[{node.gateway.id}] {line}" for line in lines]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what the workers had to say."""
    if said := config.stash.get(_workers_said, None):
        terminalreporter.section("nomad_testkit")
        terminalreporter.write("\n".join(said) + "\n")


def _has_started(node: Any) -> None:
    if (lock := node.config.stash.get(_starting, {}).pop(node.gateway.id, None)) is not None:
        lock.release()


def _usable_settings(config: pytest.Config) -> Settings:
    settings = config.stash[_settings]
    if isinstance(settings, SettingsError):
        raise pytest.UsageError(str(settings))
    return settings


def _refuse_the_example(settings: Settings, items: list[pytest.Item]) -> None:
    """Refuse an example that the settings name, or what they change in the bundled one, before the first test."""
    if settings.example is None and not settings.changes_examples:
        return
    from nomad_testkit.example_settings import chosen_example

    users = [item for item in items if topologies.used_by(item) and not _has_an_example_of_its_own(item)]
    uses = {(str(topologies.used_by(item)), topologies.asked_for(item)) for item in users}
    try:
        for topology, asked in sorted(uses):
            example = chosen_example(settings, topologies.TOPOLOGIES[topology])
            topologies.refuse_another(example, asked, topology)
        if settings.example and not uses:
            chosen_example(settings, settings.example)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error


def _has_an_example_of_its_own(item: pytest.Item) -> bool:
    """Tell whether a conftest.py has overridden nomad_example for a test."""
    found: Any = getattr(item, "_fixtureinfo", None)
    definitions = list(found.name2fixturedefs.get("nomad_example", ())) if found else []
    return bool(definitions) and definitions[-1].func.__module__ != __name__


@contextmanager
def _refused_without_traceback() -> Iterator[None]:
    """Show what a user has to change in a setting, an example or a Packer template as one message."""
    try:
        yield
    except (UsageError, PackerError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@contextmanager
def _interrupted(config: pytest.Config) -> Iterator[None]:
    """End the session with the status of an interrupt, where pytest takes none any more: it would show a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        if (session := config.stash.get(_finishing, None)) is None:
            raise
        session.exitstatus = pytest.ExitCode.INTERRUPTED


def _join(config: pytest.Config) -> Sharing:
    from nomad_testkit.runs import state_path
    from nomad_testkit.sharing import Sharing

    if _sharing not in config.stash:
        config.stash[_sharing] = Sharing.of(os.environ, state_path())
    config.stash[_sharing].join()
    return config.stash[_sharing]


def _progress(config: pytest.Config) -> Progress:
    if (output := getattr(config, "workeroutput", None)) is not None:
        lines: list[str] = output.setdefault("nomad_testkit", [])
        return lines.append
    reporter = config.pluginmanager.getplugin("terminalreporter")
    capture = config.pluginmanager.getplugin("capturemanager")
    if reporter is None or capture is None:
        return logger.info

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"nomad_testkit: {line}" if "\n" not in line else line)
            reporter.flush()  # a log that is no terminal shows it at once too

    return show


def _evidence(item: pytest.Item, cluster: Any) -> str:
    from nomad_testkit import diagnostics
    from nomad_testkit.cluster import Cluster
    from nomad_testkit.runs import Run

    if not isinstance(cluster, Cluster):
        return "no evidence: nomad_cluster is overridden by something that is no Cluster"
    settings = _usable_settings(item.config)
    folder = settings.artifacts / cluster.run_id / re.sub(r"[^\w.-]+", "-", item.nodeid)[-120:].strip("-.")
    journal = next((run.journal for run in Run.every() if run.run_id == cluster.run_id), None)
    diagnostics.collect(cluster.hosts, folder, target=cluster.target, journal=journal)
    return f"evidence: {folder.absolute()}"
