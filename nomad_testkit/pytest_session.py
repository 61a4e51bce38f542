"""What the plugin's hooks and fixtures share in one session of pytest: its settings, its workers, its progress."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import Settings

if TYPE_CHECKING:
    from nomad_testkit.model import Progress
    from nomad_testkit.sharing import Sharing

logger = logging.getLogger(__name__)

SETTINGS = pytest.StashKey[Settings | SettingsError]()
SHARING = pytest.StashKey["Sharing"]()
FINISHING = pytest.StashKey[pytest.Session]()
"""The session, from when pytest ends it."""
ASKED_FOR = pytest.StashKey[tuple[str, ...]]()
"""What the marks of the test that is being set up ask for."""


def usable_settings(config: pytest.Config) -> Settings:
    """Give the settings. Raises UsageError of pytest where they cannot be used."""
    settings = config.stash[SETTINGS]
    if isinstance(settings, SettingsError):
        raise pytest.UsageError(str(settings))
    return settings


def join_workers(config: pytest.Config) -> Sharing:
    """Give this process's part in what the workers of pytest-xdist share, and say that it may come to use something."""
    from nomad_testkit.runs import state_path
    from nomad_testkit.sharing import Sharing

    if SHARING not in config.stash:
        config.stash[SHARING] = Sharing.of(os.environ, state_path())
    config.stash[SHARING].join()
    return config.stash[SHARING]


def progress_of(config: pytest.Config) -> Progress:
    """Give what shows a line of progress: in the terminal, or from a worker in the summary, or else in the log."""
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
