"""The checker of histories: what is linearizable, what is not, and what shows it; built with Go as users get it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kv_histories import cas, delete, got, judged, lasting, put

from nomad_testkit.errors import PreflightError, TestkitError
from nomad_testkit.faults.linearizability import checker as checker_module
from nomad_testkit.faults.linearizability.checker import get_checker, judge, lacking
from nomad_testkit.faults.linearizability.history import Operation
from nomad_testkit.images.agents import golang
from nomad_testkit.images.cache import Cache


@pytest.fixture(scope="session")
def checker() -> Path:
    return get_checker(Cache(), print)


LEGAL: dict[str, list[Operation]] = {
    "nothing": [],
    "one after the other": [
        got(None, 0, 0, 1),
        cas(None, 0, "a", 2, 3, done=True),
        got("a", 10, 4, 5),
        cas("a", 10, "b", 6, 7, done=True),
        cas("a", 10, "c", 8, 9, done=False),
        got("b", 11, 10, 11),
        delete(12, 13),
        got(None, 0, 14, 15),
        cas("b", 11, "d", 16, 17, done=False),
        put("e", 18, 19),
        got("e", 14, 20, 21),
        got("e", 14, 22, 23),
    ],
    "at the same time, in either order": [put("a", 0, 10), put("b", 0, 10), got("b", 2, 11, 12)],
    "old and new while it is written": [
        put("a", 0, 1),
        put("b", 2, 9),
        got("a", 1, 3, 4),
        got("b", 2, 5, 6),
        got("b", 2, 10, 11),
    ],
    "touching ends are at the same time": [put("a", 0, 1), put("b", 2, 5), got("a", 1, 5, 6)],
    "without an answer, done late": [put("a", 0, 1), lasting(put("b", 2, 3)), got("a", 1, 50, 51), got("b", 2, 60, 61)],
    "without an answer, never done": [put("a", 0, 1), lasting(put("b", 2, 3)), got("a", 1, 50, 51)],
    "a cas without an answer, done": [
        put("a", 0, 1),
        got("a", 1, 2, 3),
        lasting(cas("a", 1, "b", 4, 5, done=False)),
        got("b", 2, 6, 7),
    ],
    "a delete without an answer, done": [put("a", 0, 1), lasting(delete(2, 3)), got(None, 0, 6, 7)],
    "what explains a refused cas": [
        put("a", 0, 1),
        got("a", 1, 2, 3),
        lasting(put("b", 4, 5)),
        cas("a", 1, "c", 6, 7, done=False),
        put("d", 8, 9),
    ],
    "what failed counts for nothing": [
        put("a", 0, 1),
        lasting(put("b", 2, 3), "failed"),
        lasting(got(None, 0, 4, 5)),
        lasting(got("x", 9, 4, 5), "failed"),
        got("a", 1, 6, 7),
    ],
    "each key by itself": [put("a", 0, 1), got(None, 0, 2, 3, key="other"), got("a", 1, 4, 5)],
}

# What nothing explains, and the least that shows it, by the number in the list.
ILLEGAL: dict[str, tuple[list[Operation], tuple[int, ...]]] = {
    "a stale read": (
        [put("a", 0, 1), got("a", 1, 2, 3), put("b", 4, 5), got("b", 2, 6, 7), got("a", 1, 8, 9), put("c", 10, 11)],
        (0, 2, 4),
    ),
    "a read that goes back": (
        [put("a", 0, 1), put("b", 2, 20), got("b", 2, 3, 4), got("a", 1, 5, 6), got("b", 2, 30, 31)],
        (0, 1, 2, 3),
    ),
    "a lost write": ([put("a", 0, 1), got("a", 1, 2, 3), got(None, 0, 4, 5)], (0, 2)),
    "a value that nobody wrote": ([put("a", 0, 1), got("b", 2, 2, 3)], (1,)),
    "what failed has an effect": ([lasting(put("a", 0, 1), "failed"), got("a", 1, 2, 3)], (1,)),
    "what is deleted": ([put("a", 0, 1), delete(2, 3), got("a", 1, 4, 5)], (0, 1, 2)),
    "two cas from one index": (
        [put("a", 0, 1), got("a", 1, 2, 3), cas("a", 1, "b", 4, 5, done=True), cas("a", 1, "c", 6, 7, done=True)],
        (0, 2, 3),
    ),
    "a cas where there is none": ([put("a", 0, 1), cas(None, 0, "b", 2, 3, done=True)], (0, 1)),
    "a cas refused for no reason": (
        [put("a", 0, 1), got("a", 1, 2, 3), cas("a", 1, "b", 4, 5, done=False), put("c", 6, 7)],
        (0, 2),
    ),
    "an index that changes by itself": ([put("a", 0, 1), got("a", 1, 2, 3), got("a", 2, 4, 5)], (0, 1, 2)),
    "a cas without an answer that had no right to": (
        [put("a", 0, 1), put("b", 2, 3), lasting(cas("a", 1, "c", 4, 5, done=False)), got("c", 3, 6, 7)],
        (0, 1, 2, 3),
    ),
    "a write done before it was called": ([got("a", 1, 0, 1), put("a", 2, 3)], (0,)),
    "with one that is fine": (
        [put("x", 0, 1, key="fine"), put("a", 0, 1), got("x", 1, 2, 3, key="fine"), got(None, 0, 2, 3)],
        (1, 3),
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_can_be_explained_is_linearizable(checker: Path, tmp_path: Path, name: str) -> None:
    picture = tmp_path / "picture.html"
    found = judged(checker, tmp_path, *LEGAL[name], picture=picture)
    assert (found.verdict, found.violations, found.undecided, picture.exists()) == ("ok", (), (), False)
    counted = [one for one in LEGAL[name] if one.outcome == "ok" or (one.outcome == "unknown" and one.kind != "get")]
    assert (found.operations, found.keys) == (len(counted), len({one.key for one in LEGAL[name]}))


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_cannot_be_explained_is_told_by_the_least_that_shows_it(checker: Path, tmp_path: Path, name: str) -> None:
    history, least = ILLEGAL[name]
    found = judged(checker, tmp_path, *history)
    assert (found.verdict, [one.key for one in found.violations]) == ("illegal", ["k"])
    assert found.violations[0].operations == least


def test_every_illegal_key_is_told_and_a_picture_shows_them_with_the_faults(checker: Path, tmp_path: Path) -> None:
    lost = [put("a", 0, 1), got(None, 0, 4, 5)]
    other = [replace(one, key="other", value=one.value and "lost-too") for one in lost]
    picture = tmp_path / "picture.html"
    found = judged(checker, tmp_path, *lost, *other, put("fine-value", 0, 1, key="fine"), picture=picture)
    assert [one.key for one in found.violations] == ["k", "other"]
    text = picture.read_text()
    assert ("lost-too" in text, "fine-value" in text, "kill consul" in text) == (True, False, False)
    (tmp_path / "faults.jsonl").write_text('{"what": "kill consul on i-1", "start": 2, "end": 9, "step": {}}\n')
    judge(checker, tmp_path / "history.jsonl", picture=picture, faults=tmp_path / "faults.jsonl")
    assert "kill consul on i-1" in picture.read_text()


def test_what_takes_too_long_is_undecided_unless_another_key_is_illegal(checker: Path, tmp_path: Path) -> None:
    # Any of these may or may not have been done, in any order, and nothing explains the end.
    hard = [lasting(put(f"v{number}", 0, 1, key="hard")) for number in range(40)]
    hard += [got(f"v{number}", number + 1, 10 + number, 10 + number, key="hard") for number in range(0, 40, 2)]
    hard += [got("nobody's", 99, 100, 101, key="hard")]
    found = judged(checker, tmp_path, *hard, put("a", 0, 1), limit=0.2)
    assert (found.verdict, found.undecided, found.violations) == ("unknown", ("hard",), ())
    found = judged(checker, tmp_path, *hard, put("a", 0, 1), got(None, 0, 2, 3), limit=0.2)
    assert (found.verdict, found.undecided, [one.key for one in found.violations]) == ("illegal", ("hard",), ["k"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"value": "a"}, 'operations 0 and 1 write the same value "a" to k'),
        ({"returned": 1}, "operation 1: returned before it was called"),
        ({"returned": None}, "operation 1: is ok, and never returned"),
        ({"kind": "increment"}, 'operation 1: the kind is "increment", not get, put, cas or delete'),
        ({"outcome": "fine"}, 'operation 1: the outcome is "fine", not ok, failed or unknown'),
        ({"value": None}, "operation 1: writes no value"),
        ({"key": ""}, "operation 1: has no key"),
    ],
)
def test_a_history_without_sense_is_refused(checker: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(TestkitError, match=told):
        judged(checker, tmp_path, put("a", 0, 1), replace(put("b", 2, 3), **changes))


def test_a_file_that_cannot_be_read_is_told(checker: Path, tmp_path: Path) -> None:
    with pytest.raises(TestkitError, match=r"status 2: .*gone.jsonl: no such file"):
        judge(checker, tmp_path / "gone.jsonl")
    (tmp_path / "broken.jsonl").write_text("\n")
    with pytest.raises(TestkitError, match=r"broken.jsonl, line 1: "):
        judge(checker, tmp_path / "broken.jsonl")


def test_only_what_is_not_in_the_cache_needs_go(checker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "_find_go", lambda: None)
    assert lacking(Cache()) == []
    assert get_checker(Cache(), print) == checker
    told = r"Go, to build linearizability-checker: install Go from https://go\.dev/dl"
    with pytest.raises(PreflightError, match=told):
        get_checker(Cache(tmp_path), print)
    assert list(tmp_path.iterdir()) == []


def test_another_source_is_built_anew(tmp_path: Path, checker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "_find_go", lambda: None)
    for file in checker_module._MODULE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + b"\n")
    monkeypatch.setattr(checker_module, "_MODULE", tmp_path)
    assert [one.what for one in lacking(Cache())] == ["Go, to build linearizability-checker"]
