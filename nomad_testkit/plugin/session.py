"""What the plugin's hooks and fixtures share in one session of pytest: its settings, its workers, its progress."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TextIO

import pytest

from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import Settings

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.plugin.xdist_cluster import Sharing

logger = logging.getLogger(__name__)

SETTINGS = pytest.StashKey[Settings | SettingsError]()
SHARING = pytest.StashKey["Sharing"]()
FINISHING = pytest.StashKey[pytest.Session]()
"""The session, from when pytest ends it."""
ASKED_FOR = pytest.StashKey[tuple[str, ...]]()
"""What the marks of the test that is being set up ask for."""
CLUSTER_FIXTURES = ("nomad_target", "nomad_cluster")
"""The fixtures by which a test uses clusters, or the place that they are deployed to."""
LINES = "nomad_testkit"
"""What a worker of pytest-xdist gets its channel for lines of progress under, and sends those by that it could not."""


def usable_settings(config: pytest.Config) -> Settings:
    """Give the settings. Raises UsageError of pytest where they cannot be used."""
    settings = config.stash[SETTINGS]
    if isinstance(settings, SettingsError):
        raise pytest.UsageError(str(settings))
    return settings


def join_workers(config: pytest.Config) -> Sharing:
    """Give this process's part in what the workers of pytest-xdist share, and say that it may come to use something."""
    from nomad_testkit.plugin.xdist_cluster import Sharing
    from nomad_testkit.runs.run import state_path

    if SHARING not in config.stash:
        config.stash[SHARING] = Sharing.of(os.environ, state_path())
    config.stash[SHARING].join()
    return config.stash[SHARING]


def progress_of(config: pytest.Config) -> Progress:
    """Give what shows progress: in the terminal, or from a worker through the controller, or else in the log."""
    from nomad_testkit.deployment.progress import LiveProgress, duplicate

    quiet = config.get_verbosity() < 0
    if hasattr(config, "workerinput"):
        return LiveProgress(_to_controller(config), lambda: None, quiet=quiet, prefix="")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None:
        return logger.info
    capture = config.pluginmanager.getplugin("capturemanager")

    def shown() -> AbstractContextManager[object]:
        return nullcontext() if capture is None else capture.global_and_fixture_disabled()

    def write(text: str) -> None:
        with shown():
            write_lines(reporter, text)

    def terminal() -> TextIO | None:
        if config.getini("log_cli") or config.getoption("log_cli_level") is not None:
            return None  # records of the log would be written right into it
        with shown():
            begin_line(reporter)
            reporter.flush()
            return duplicate(sys.stdout)

    return LiveProgress(write, terminal, quiet=quiet, color=config.getoption("color") != "no")


def write_lines(reporter: pytest.TerminalReporter, text: str) -> None:
    """Write lines of their own; a log that is no terminal shows them at once too."""
    begin_line(reporter)
    reporter.write_line(text)
    reporter.flush()


def begin_line(reporter: pytest.TerminalReporter) -> None:
    """End a line that pytest has begun, such as one of dots, which `ensure_newline` knows only the first time."""
    reporter.ensure_newline()
    if reporter.config.get_terminal_writer().width_of_current_line:
        reporter.write_line("")


def _to_controller(config: pytest.Config) -> Progress:
    """Give what sends a worker's lines to the controller: one at once, several that belong together for the end."""
    given, output = config.workerinput, config.workeroutput  # type: ignore[attr-defined]

    def send(text: str) -> None:
        single = "\n" not in text
        try:
            if single:
                given[LINES].send(text)
        except (KeyError, OSError):  # nobody listens
            single = False
        if not single:
            output.setdefault(LINES, []).append(text)

    return send
