"""The history of runs: written by several at once, read back, and never in the way when its file is damaged."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from command_line import call
from made_reports import BEGAN, green, interrupted, red

from nomad_testkit.cli.report import report  # noqa: F401 (registers the command)
from nomad_testkit.errors import HistoryError
from nomad_testkit.report.history.store import RunFigures, RunHistory, append, runs_of


def figures(number: int, *, seconds: float = 7.0, images: str = "ami-1") -> RunFigures:
    what = ("colocated", "1 clients, 1 servers", "embedded", "us-east-1", images, "1.14.0", "1.6.1", "passed")
    phases = {"hosts up": seconds, "clients ready": seconds + 5}
    return RunFigures(f"nt-{number:04}", BEGAN + 3600 * number, *what, phases, {"kill nomad: Leader": 3.0})


def test_runs_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    history = RunHistory(tmp_path / "state" / "history.sqlite3")
    assert history.last() == []
    assert not history.path.exists()
    runs = [figures(number) for number in range(5)]
    history.append(runs[3:])
    history.append(runs[:3])
    history.append([replace(runs[4], outcome="failed")])  # written anew
    assert history.last() == [*runs[:4], replace(runs[4], outcome="failed")]
    assert [run.run_id for run in history.last(2)] == ["nt-0003", "nt-0004"]
    assert history.last(example="another") == []
    assert history.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in history.path.parent.iterdir()] == ["history.sqlite3"]


def _write(path: Path, number: int) -> None:
    for part in range(5):
        RunHistory(path).append([figures(10 * number + part)])


def test_several_runs_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        for done in [pool.submit(_write, path, number) for number in range(4)]:
            done.result()
    assert len(RunHistory(path).last()) == 20


def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    history = RunHistory(tmp_path / "history.sqlite3")
    history.path.write_bytes(b"no database at all" * 100)
    remedy = rf"history.sqlite3 is damaged: .*move it away with `mv {history.path} {history.path}.damaged`"
    for use in (history.last, lambda: history.append([figures(1)])):
        with pytest.raises(HistoryError, match=remedy):
            use()
    history.path.unlink()
    history.append([figures(1)])
    with sqlite3.connect(history.path) as connection:
        connection.execute("DROP TABLE figures")
    connection.close()
    with pytest.raises(HistoryError, match="is damaged: no such table: figures; move it away"):
        history.append([figures(2)])


def test_a_newer_or_foreign_file_is_left_alone(tmp_path: Path) -> None:
    history = RunHistory(tmp_path / "history.sqlite3")
    history.append([figures(1)])
    with sqlite3.connect(history.path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(HistoryError, match="has version 7 of its tables, and this nomad_testkit knows version 1"):
        history.append([figures(2)])


def test_a_file_that_is_held_or_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = RunHistory(tmp_path / "history.sqlite3")
    history.append([figures(1)])
    monkeypatch.setattr("nomad_testkit.report.history.store._PATIENCE", 0.05)
    other = sqlite3.connect(history.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryError, match="cannot be used now: database is locked; see that no other program"):
        history.append([figures(2)])
    other.close()
    (tmp_path / "file").touch()
    said = r"cannot be kept in .*/file/history.sqlite3: File exists; make its folder writable"
    with pytest.raises(HistoryError, match=said):
        RunHistory(tmp_path / "file" / "history.sqlite3").append([figures(1)])


def test_what_a_report_leaves_to_the_history(tmp_path: Path) -> None:
    first, second = runs_of(green(2))
    assert (first.example, first.target) == ("nomad-consul-colocated-cluster", "embedded")
    assert (first.consul, first.nomad, first.outcome) == ("1.14.0", "1.6.1", "passed")
    assert first.phases["clients ready"] == 15.4
    assert first.healing == pytest.approx(
        {"kill consul: undone": 1.8, "kill consul: LeaderReelected consul": 6.0, "kill consul: RaftPeers consul": 3.2}
    )
    assert (first.shape, second.shape) == ("6 clients, 3 servers", "2 clients, 1 servers")
    # One that a test made itself, or that was interrupted, is none of the user's; one that failed is.
    assert [(run.run_id, run.outcome) for run in runs_of(red(tmp_path))] == [("nt-20260921-00000b", "not ready")]
    assert runs_of(interrupted()) == []


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    return tmp_path


def test_the_trend_flags_an_image_that_got_slower(state: Path) -> None:
    empty = call("report", "--trend")
    assert (empty.exit_code, empty.output[:36]) == (0, f"there is no run in {state}"[:36])
    append([figures(n, seconds=7 + 0.1 * (n % 3)) for n in range(10)])
    append([figures(n, seconds=11 + 0.1 * (n % 3), images="ami-2") for n in range(10, 16)])
    shown = call("report", "--trend")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[0].startswith("colocated (1 clients, 1 servers) on embedded: 16 runs, the latest nt-0015 at 2026-")
    assert lines[2].split()[:10] == ["hosts", "up", "11.0", "s", "7.2", "s", "7.0", "s", "11.2", "s"]
    assert lines[2].split()[-1] == "▁▁▁" * 3 + "▁" + "█▇█▇▇█" or len(lines[2].split()[-1]) == 16
    step = "7.1 s before, 11.1 s (+56%) since nt-0010 at 2026-"
    flagged = [line for line in lines if "STEP" in line]
    assert [line.split(": ")[0].split("  ")[-1] for line in flagged] == ["hosts up", "ready"]
    assert step in flagged[0]
    assert flagged[0].endswith("; image ami-1 -> ami-2")
    facts = json.loads(call("report", "--trend", "--json", "--last", "8").output)
    (group,) = facts
    assert [one["name"] for one in group["figures"]] == ["hosts up", "clients ready", "ready", "kill nomad: Leader"]
    assert [run["run_id"] for run in group["figures"][0]["runs"]] == [f"nt-{n:04}" for n in range(8, 16)]
    assert group["figures"][0]["steps"] == []  # too few runs before


def test_bad_input_of_the_trend_is_refused(state: Path) -> None:
    append([figures(1)])
    unknown = call("report", "--trend", "--example", "colocatd")
    assert unknown.exit_code != 0
    assert "no run of example 'colocatd'" in unknown.output
    assert "colocated" in unknown.output.rpartition("expected")[2]
    page = call("report")
    assert page.exit_code == 2
    assert "say --trend; the page of a single run is made by `pytest --nomad-report FILE.html`" in page.output
    assert call("report", "--trend", "--last", "0").exit_code == 2
    (state / "history.sqlite3").write_bytes(b"x" * 5000)
    damaged = call("report", "--trend")
    assert damaged.exit_code == 1
    assert "is damaged: file is not a database; move it away" in damaged.output
