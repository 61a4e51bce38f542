"""What the plugin does where pytest-xdist distributes the tests."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from nomad_testkit.pytest_session import LINES, write_lines

if TYPE_CHECKING:
    from nomad_testkit.file_lock import FileLock

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


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let a worker that is about to start tell its progress, and the others keep their cluster for it meanwhile."""
    from nomad_testkit.runs import state_path
    from nomad_testkit.sharing import expect_worker

    _show_lines_of(node)
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
    """Keep what a worker of pytest-xdist could not show at once."""
    _has_started(node)
    said = node.config.stash.setdefault(_workers_said, [])
    said += getattr(node, "workeroutput", {}).get(LINES, ())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what the workers had to say at the end."""
    if said := config.stash.get(_workers_said, None):
        terminalreporter.section("nomad_testkit")
        terminalreporter.write("\n".join(said) + "\n")


def _has_started(node: Any) -> None:
    if (lock := node.config.stash.get(_starting, {}).pop(node.gateway.id, None)) is not None:
        lock.release()


def _show_lines_of(node: Any) -> None:
    """Show the lines of a worker, which has no terminal of its own, when they come."""
    reporter = node.config.pluginmanager.getplugin("terminalreporter")

    def show(text: str) -> None:
        if reporter is not None:
            write_lines(reporter, f"nomad_testkit [{node.gateway.id}]: {text}")

    channel = node.gateway.newchannel()
    channel.setcallback(show)
    node.workerinput[LINES] = channel
