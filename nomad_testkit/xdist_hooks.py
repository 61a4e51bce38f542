"""What the plugin does where pytest-xdist distributes the tests."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

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
