"""A run that deploys nothing passes, whatever the machine is like; one that deploys says what is wrong with it.

No folder here is only read-only: these tests run as root too, for whom that counts for nothing.
"""

from __future__ import annotations

import pytest
from fake_clusters import FAKES, deployments_alone, run

from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import Settings

LONG = "/tmp/" + 300 * "x"  # nothing is made there
MACHINES: dict[str, dict[str, str | None]] = {
    "a file": {"NOMAD_TESTKIT_STATE": "file"},
    "too long": {"NOMAD_TESTKIT_STATE": LONG},
    "no state": {"XDG_STATE_HOME": "/dev/null/x", "NOMAD_TESTKIT_STATE": None},
    "home is a file": {"HOME": "/dev/null", "XDG_STATE_HOME": None, "NOMAD_TESTKIT_STATE": None},
    "no home": {"HOME": None, "XDG_STATE_HOME": None, "NOMAD_TESTKIT_STATE": None},
    "in /proc": {"HOME": "/proc/nothing", "XDG_STATE_HOME": None, "NOMAD_TESTKIT_STATE": None},
    "settings too long": {"NOMAD_TESTKIT_ARTIFACTS": LONG, "NOMAD_TESTKIT_EXAMPLE": LONG, "NOMAD_TESTKIT_VAR": "a=1"},
    "settings of nobody": {"NOMAD_TESTKIT_TERRAFORM": "~nobody-here/x", "NOMAD_TESTKIT_REPORT": "/proc/x/x.html"},
}


@pytest.fixture
def machine(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    deployments_alone(pytester, monkeypatch)
    pytester.makefile("", file="")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_unrelated(number):
            pass
        """
    )
    return pytester


@pytest.mark.parametrize(
    ("environ", "args"),
    [
        pytest.param(environ, args, id=f"{name} {' '.join(args)}")
        for name, environ in MACHINES.items()
        for args in ((), ("-n", "2"))
        # Only the controller of workers looks into the folder for runs, and only the settings concern one process.
        if args or name.startswith("settings")
    ],
)
def test_a_run_that_deploys_nothing_is_not_disturbed(
    machine: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str | None], args: tuple[str, ...]
) -> None:
    for name, value in environ.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    result = run(machine, *args)
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.OK


def test_a_system_without_its_locks_is_not_disturbed(machine: pytest.Pytester) -> None:
    machine.makeconftest("import sys\nsys.modules['fcntl'] = None")  # as on Windows
    run(machine, "-n", "2").assert_outcomes(passed=3)


def test_an_error_that_cannot_be_shown_ends_only_its_own_test(machine: pytest.Pytester) -> None:
    machine.makepyfile(
        """
        class Odd(Exception):
            def __str__(self):
                raise ValueError("not me")

        def test_cannot_be_shown():
            raise Odd

        def test_has_notes_of_its_own():
            error = RuntimeError("one")
            error.__notes__ = 3
            raise error

        def test_unrelated():
            pass
        """
    )
    result = run(machine, "--tb=native")
    result.assert_outcomes(passed=1, failed=2)


@pytest.mark.parametrize(
    ("name", "path"),
    [("EXAMPLE", LONG)]
    + [(name, path) for name in ("ARTIFACTS", "TERRAFORM", "REPORT") for path in (LONG, "~nobody-here/x.html")],
)
def test_a_path_that_cannot_be_looked_at_is_a_wrong_setting(name: str, path: str) -> None:
    with pytest.raises(SettingsError, match=rf"NOMAD_TESTKIT_{name}: found '{path}', expected .+"):
        Settings.load(environ={f"NOMAD_TESTKIT_{name}": path})


def test_workers_that_use_a_cluster_say_what_is_wrong(
    machine: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.makeconftest(FAKES)
    machine.makepyfile("def test_uses_it(nomad_cluster): pass")
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", "file")
    result = run(machine, "-n", "2")
    result.assert_outcomes(errors=1)
    assert "set NOMAD_TESTKIT_STATE to a folder that can be written" in result.stdout.str()
