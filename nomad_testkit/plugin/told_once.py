"""The failure of what several tests share, told once: by the first test of all workers, and the others point to it.

pytest raises the error of a session's fixture again for each test that uses it, and a rerun or another worker of
pytest-xdist asks anew for what could not be made. All of that is one failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import _pytest
import pluggy
import pytest

import nomad_testkit
from nomad_testkit.errors import TestkitError, said

LACKING = {
    "nomad_settings": "no settings",
    "nomad_example": "no example",
    "nomad_target": "no cluster",
    "nomad_cluster": "no cluster",
    "nomad_ami": "no AMI",
    "nomad_ami_host": "no instance of the AMI",
}
"""What a test has not got, by the shared fixture that failed."""
SECTION = "nomad_testkit"
"""The title of what is said of a failing test's cluster."""
_PACKAGE = Path(nomad_testkit.__file__).parent
_OF_USERS = _PACKAGE / "suite"
_MACHINERY = tuple(Path(str(module.__file__)).parent for module in (_pytest, pluggy))
"""What calls tests and fixtures."""
_MARK = "_nomad_testkit_shared"


def mark(error: Exception, fixture: str) -> None:
    """Remember with an error that a shared fixture failed with it."""
    if fixture in LACKING and not hasattr(error, _MARK):
        setattr(error, _MARK, (LACKING[fixture], said(error)))


def shared_failure(error: BaseException) -> tuple[str, str] | None:
    """Give what a test lacks and why, for an error that a shared fixture failed with; else None."""
    found: tuple[str, str] | None = getattr(error, _MARK, None)
    return found


def points_elsewhere(cause: str) -> bool:
    """Whether what a report says is only which other test tells why.

    >>> points_elsewhere("no cluster: see test_cluster.py::test_it_forms")
    True
    """
    return any(cause.startswith(f"{lacking}: see ") for lacking in LACKING.values())


def is_ours(error: BaseException) -> bool:
    """Whether an error's message says all, so that the plugin's own code below it explains nothing."""
    return isinstance(error, TestkitError) or (isinstance(error, pytest.fail.Exception) and not error.pytrace)


def message(text: str, *, headline: str = "") -> Any:
    """Make the failure of a report that shows a text without a traceback, and begins its summary with a headline."""
    try:
        raise pytest.fail.Exception(text, pytrace=False)
    except pytest.fail.Exception as error:
        shown = pytest.ExceptionInfo.from_exception(error).getrepr(style="value")
    with_headline(shown, headline or text)
    return shown


def with_headline(longrepr: Any, headline: str) -> None:
    """Let a failure begin with a line in pytest's summary and in JUnit XML."""
    if (crash := getattr(longrepr, "reprcrash", None)) is not None:
        crash.message = headline  # in place: pytest-xdist sends another reference to it


def hide_internals(call: pytest.CallInfo[None], config: pytest.Config) -> bool:
    """Take the package's own code out of the traceback of an error whose message says all.

    Returns whether code of users is in it, without which there is no traceback worth showing. With pytest's
    --full-trace all of it stays.
    """
    excinfo = call.excinfo
    if excinfo is None or config.getoption("fulltrace", False) or not isinstance(excinfo.value, TestkitError):
        return True
    error = excinfo.value
    entries = [entry for entry in _entries(error.__traceback__) if not _below(entry, _PACKAGE, contextlib.__file__)]
    if all(_below(entry, *_MACHINERY) for entry in entries):
        return False
    chain: TracebackType | None = None
    for entry in reversed(entries):
        chain = TracebackType(chain, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    error.__cause__ = None  # which suppresses what it comes from, too
    call.excinfo = pytest.ExceptionInfo.from_exception(error.with_traceback(chain))
    return True


def _entries(chain: TracebackType | None) -> Iterator[TracebackType]:
    while chain is not None:
        yield chain
        chain = chain.tb_next


def _below(entry: TracebackType, *folders: str | Path) -> bool:
    path = Path(entry.tb_frame.f_code.co_filename)
    return any(path.is_relative_to(folder) for folder in folders) and not path.is_relative_to(_OF_USERS)
