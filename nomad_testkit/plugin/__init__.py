"""The pytest plugin: its options, markers and hooks; with it come its fixtures, and hooks in modules of their own.

Everything heavy is imported when a fixture is used: an installed plugin is loaded by every pytest run on the machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from nomad_testkit.errors import PreflightError, SettingsError, TestkitError, UsageError
from nomad_testkit.plugin import overrides, topologies
from nomad_testkit.plugin.session import (
    ASKED_FOR,
    CLUSTER_FIXTURES,
    FINISHING,
    SETTINGS,
    SHARING,
    join_workers,
    usable_settings,
)
from nomad_testkit.settings import Settings, table

_FIXTURES = "nomad_testkit.plugin.fixtures"
pytest_plugins = (
    _FIXTURES,
    "nomad_testkit.plugin.ci_hooks",
    "nomad_testkit.plugin.evidence_hooks",
    "nomad_testkit.plugin.pausing",
    "nomad_testkit.plugin.report_hooks",
    "nomad_testkit.plugin.xdist_hooks",
)

_MARKERS = {
    "colocated": "the main job: a cluster with Nomad and Consul servers on the same hosts",
    "separate": "a cluster with Nomad and Consul servers on hosts of their own",
    "encrypted": "a cluster with TLS, encrypted gossip and ACLs on both agents",
    "ami": "an image for hosts, looked at on one instance",
    "faults": "a cluster whose agents, instances and network are made to fail, and that has to heal",
    "linearizability": "a cluster whose Consul KV has to stay linearizable under a sequence of faults",
    "operations": "a cluster that is drained, scaled, replaced and restored while it runs",
    "nomad_topology(name, ...)": "run the test with a cluster of each topology: colocated, separate or encrypted",
}


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
        settings = Settings.load(**given, environ=os.environ)
        if settings.var and settings.example and Path(settings.example).is_dir():
            from nomad_testkit.examples.settings import with_sensitive

            settings = with_sensitive(settings)
        config.stash[SETTINGS] = settings
    except SettingsError as error:
        config.stash[SETTINGS] = error
        # A variable of the environment alone must not end a run that has nothing to do with clusters.
        try:
            Settings.load(**given)
        except SettingsError:
            raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Show the settings in force, and where each came from."""
    settings = config.stash[SETTINGS]
    lines = settings.in_force() if isinstance(settings, Settings) else str(settings).splitlines()
    if isinstance(settings, Settings) and settings.target == "embedded" and os.geteuid() == 0:
        lines = [*lines, *weaknesses()]
    return [f"nomad_testkit: {line}" for line in lines]


def weaknesses() -> list[str]:
    """Tell where this machine cannot give the embedded EC2's hosts the isolation that they have elsewhere."""
    from nomad_testkit.ec2.machines.isolation import missing_isolation
    from nomad_testkit.images.cache import Cache

    root = Cache().root
    lacking = missing_isolation(next(one for one in (root, *root.parents) if one.exists()))
    return [f"root on a host is root on this machine: {lacking} (see nomad-testkit doctor)"] if lacking else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each topology that its marks ask for, marked with that one."""
    taken = topologies.MARKER in metafunc.fixturenames
    if not taken and "request" not in metafunc.fixturenames:
        return
    try:
        asked = topologies.asked_for(metafunc.definition)
    except UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from error
    if set(asked) - {topologies.DEFAULT}:
        if not taken:  # it may get the cluster by `getfixturevalue`, as the steps of pytest-bdd do
            metafunc.fixturenames.append(topologies.MARKER)
        # These are chosen by their own mark alone: who wants a cluster checked does not want it broken or changed.
        marked = not any(metafunc.definition.get_closest_marker(name) for name in ("faults", "operations"))
        # The default one's value is None, as that of tests without a mark, so that they share its cluster.
        params = [
            pytest.param(
                None if name == topologies.DEFAULT else name,
                id=name,
                marks=[getattr(pytest.mark, name)] if marked else [],
            )
            for name in asked
        ]
        metafunc.parametrize(topologies.MARKER, params, indirect=True, scope="session")


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
    """Remember what the test's marks ask for, for the cluster that it may be the first to use, however it asks."""
    item.config.stash[ASKED_FOR] = topologies.asked_for(item)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, object, object]:
    """Refuse what an overridden fixture gives where options of this run ask for something else."""
    __tracebackhide__ = True
    value = yield
    overridden = fixturedef.argname in overrides.WATCHED and fixturedef.func.__module__ != _FIXTURES
    settings = request.config.stash[SETTINGS]
    if overridden and isinstance(settings, Settings):
        code = fixturedef.func.__code__
        where = f"{code.co_filename}:{code.co_firstlineno}"
        if why := overrides.defeated(fixturedef.argname, value, settings, where):
            error = pytest.fail.Exception(why, pytrace=False)
            # So that every test which uses it is told, and not only the first.
            fixturedef.cached_result = (None, fixturedef.cache_key(request), (error, None))
            raise error
    return value


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Where clusters are going to be used, refuse settings that cannot be, and join the other workers.

    First, because pytest-xdist tells from here that this worker has collected: no test of any worker runs before all
    have, and so none can be done with a cluster before all have joined.
    """
    used = any(topologies.uses(item, *CLUSTER_FIXTURES) for item in session.items)
    if used and not session.config.option.collectonly:
        _refuse_the_example(usable_settings(session.config), session.items)
        # A worker's error here would be lost with it; the fixture joins again, and shows it in the test.
        with suppress(TestkitError):
            join_workers(session.config).tell_groups(topologies.groups(session.items))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Leave the other workers when every fixture has been torn down."""
    session.config.stash[FINISHING] = session
    try:
        return (yield)
    finally:
        if (sharing := session.config.stash.get(SHARING, None)) is not None:
            sharing.leave()


@pytest.hookimpl(tryfirst=True)
def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a comparison with a secret without pytest's comparison of two texts, which would show it."""
    loaded = sys.modules.get("nomad_testkit.cluster.secrets")
    if loaded is None or not any(isinstance(side, loaded.Secret) for side in (left, right)):
        return None
    return [f"{left!r} {op} {right!r}"]


def _refuse_the_example(settings: Settings, items: list[pytest.Item]) -> None:
    """Refuse an example that the settings name, or what they change in the bundled one, before the first test."""
    if settings.attach:
        _refuse_the_attachment(settings, items)
    if settings.example is None and not settings.changes_examples:
        return
    from nomad_testkit.examples.settings import chosen_example

    users = [item for item in items if topologies.used_by(item) and not _has_an_example_of_its_own(item)]
    uses = {(str(topologies.used_by(item)), topologies.asked_for(item)) for item in users}
    try:
        for topology, asked in sorted(uses):
            example = chosen_example(settings, topologies.TOPOLOGIES[topology])
            topologies.refuse_another(example, asked, topology)
            example.preflight(settings.terraform)
        if settings.example and not uses:
            chosen_example(settings, settings.example)
    except (UsageError, PreflightError) as error:
        raise pytest.UsageError(str(error)) from error


def _refuse_the_attachment(settings: Settings, items: list[pytest.Item]) -> None:
    """Refuse a cluster that is not up, and one that is of another topology than the tests, before the first test."""
    from nomad_testkit.plugin.attaching import attached_target, refuse_topology

    try:
        with attached_target(settings):
            for topology, asked in sorted(
                {(topologies.used_by(item) or "", topologies.asked_for(item)) for item in items}
            ):
                if topology:
                    refuse_topology(settings, asked, topology)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error


def _has_an_example_of_its_own(item: pytest.Item) -> bool:
    """Tell whether a conftest.py has overridden nomad_example for a test."""
    found: Any = getattr(item, "_fixtureinfo", None)
    definitions = list(found.name2fixturedefs.get("nomad_example", ())) if found else []
    return bool(definitions) and definitions[-1].func.__module__ != _FIXTURES
