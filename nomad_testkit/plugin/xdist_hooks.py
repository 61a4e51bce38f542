"""What the plugin does where pytest-xdist distributes the tests."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from nomad_testkit.plugin.session import LINES, SETTINGS, write_lines
from nomad_testkit.plugin.xdist_credentials import offer_roles
from nomad_testkit.settings import Settings

if TYPE_CHECKING:
    from nomad_testkit.runs.locks import FileLock

T = TypeVar("T")

_REFUSED = "nomad_testkit_refused"
"""The key, in a worker's output, of what it has refused."""
_workers_said = pytest.StashKey[list[str]]()
_starting = pytest.StashKey[dict[str, "FileLock | None"]]()
_run = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Let pytest-xdist keep the tests of one topology together, unless the user chose how it distributes."""
    option = config.option
    if getattr(option, "numprocesses", None) and option.dist == "no" and not option.distload:
        option.dist = "loadgroup"
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Have the controller say what a worker refuses: an error of usage would end the worker as a crash of its own."""
    try:
        return (yield)
    except pytest.UsageError as error:
        if (output := getattr(session.config, "workeroutput", None)) is None:
            raise
        output[_REFUSED] = str(error)
        raise pytest.exit.Exception(str(error), returncode=pytest.ExitCode.USAGE_ERROR) from error


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let a worker that is about to start tell its progress, and the others keep their cluster for it meanwhile."""

    def expected(state: Path) -> FileLock | None:
        from nomad_testkit.plugin.xdist_cluster import expect_worker

        return expect_worker(state, node.workerinput["testrunuid"])

    _show_lines_of(node)
    offer_roles(node)
    _let_teardown_end(node)
    node.config.stash[_run] = node.workerinput["testrunuid"]
    starting = node.config.stash.setdefault(_starting, {})
    starting[node.gateway.id] = _shared(expected, otherwise=None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute by the groups that the workers have found, unless the user chose another way than loadgroup."""
    if config.option.dist != "loadgroup":
        return None
    from nomad_testkit.plugin.xdist_schedule import GroupScheduling

    def groups(state: Path) -> dict[str, str]:
        from nomad_testkit.plugin import xdist_cluster

        return xdist_cluster.groups(state, config.stash[_run])

    return GroupScheduling(config, log, lambda: _shared(groups, otherwise={}))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """The worker has joined the others by now."""
    _has_started(node)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep what a worker of pytest-xdist could not show at once; end the session with what it has refused."""
    _has_started(node)
    if why := getattr(node, "workeroutput", {}).get(_REFUSED):
        raise pytest.UsageError(why)
    said = node.config.stash.setdefault(_workers_said, [])
    said += getattr(node, "workeroutput", {}).get(LINES, ())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what the workers had to say at the end."""
    if said := config.stash.get(_workers_said, None):
        terminalreporter.section("nomad_testkit")
        terminalreporter.write("\n".join(said) + "\n")


def _shared(read: Callable[[Path], T], *, otherwise: T) -> T:
    """Read what the workers share in the state folder, or give `otherwise` where this machine cannot hold any.

    Most runs deploy nothing, and need no usable home folder. A worker that does use a cluster says what is wrong.
    """
    try:
        from nomad_testkit.runs.run import state_path

        return read(state_path())
    except (OSError, ValueError, RuntimeError, ImportError):  # RuntimeError: there is no home; ImportError: no fcntl
        return otherwise


def _has_started(node: Any) -> None:
    if (lock := node.config.stash.get(_starting, {}).pop(node.gateway.id, None)) is not None:
        lock.release()


def _let_teardown_end(node: Any) -> None:
    """On AWS, wait for a worker as long as a teardown may take: pytest-xdist kills it 10 s after Ctrl-C."""
    settings = node.config.stash.get(SETTINGS, None)
    if isinstance(settings, Settings) and settings.target == "aws":
        from nomad_testkit.targets.aws.target import TEARDOWN_SECONDS

        node.nodemanager.EXIT_TIMEOUT = max(node.nodemanager.EXIT_TIMEOUT, TEARDOWN_SECONDS)


def _show_lines_of(node: Any) -> None:
    """Show the lines of a worker, which has no terminal of its own, when they come."""
    reporter = node.config.pluginmanager.getplugin("terminalreporter")

    def show(text: str) -> None:
        if reporter is not None:
            write_lines(reporter, f"nomad_testkit [{node.gateway.id}]: {text}")

    channel = node.gateway.newchannel()
    channel.setcallback(show)
    node.workerinput[LINES] = channel
