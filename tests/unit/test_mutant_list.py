"""The list of `tox -e mutants` is sound: the place of each fault is in the code exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutant import MisplacedError, Mutant
from mutant_list import MUTANTS

ROOT = Path(__file__).parents[2]
SOURCE = "class A:\n    def f(self) -> int:\n        return 1\n\n    def g(self) -> int:\n        return 1 + 1\n"


def test_every_place_is_there_once() -> None:
    wrong = []
    for mutant in MUTANTS:
        try:
            mutant.check(ROOT)
        except MisplacedError as error:
            wrong.append(str(error))
    assert wrong == []


def test_there_are_enough_and_none_twice() -> None:
    assert len(MUTANTS) >= 60
    assert len({(one.file, one.function, one.old, one.new) for one in MUTANTS}) == len(MUTANTS)


def test_every_mutant_has_tests_and_a_reason_says_something() -> None:
    assert [one.place for one in MUTANTS if not one.tests or (one.reason and len(one.reason) < 20)] == []


def test_a_change_stays_within_its_function() -> None:
    mutant = Mutant("a.py", "A.f", "return 1", "return 2", ())
    assert mutant.applied(SOURCE) == SOURCE.replace("return 1\n", "return 2\n", 1)


@pytest.mark.parametrize(
    ("function", "old", "new", "why"),
    [
        ("A.f", "return 3", "return 4", "found it 0 times"),
        ("A.g", "1", "2", "found it 2 times"),
        ("", "return 1", "return 2", "found it 2 times"),
        ("A.h", "1", "2", "expected one definition of 'h', found 0"),
        ("B.f", "1", "2", "expected one definition of 'B', found 0"),
        ("A.f", "return 1", "return (", "is no Python there"),
        ("A.f", "return 1", "return (1)", "changes nothing"),
    ],
)
def test_a_misplaced_change_is_refused_with_its_place(function: str, old: str, new: str, why: str) -> None:
    with pytest.raises(MisplacedError, match=f"nomad_testkit/a.py: {function or 'module'}: .*") as refused:
        Mutant("a.py", function, old, new, ()).applied(SOURCE)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("nowhere.py", ("test_wait.py",)),
        ("wait.py", ("test_nowhere.py",)),
        ("wait.py", ("test_wait.py::test_nothing",)),
    ],
)
def test_missing_files_are_refused(file: str, tests: tuple[str, ...]) -> None:
    with pytest.raises(MisplacedError, match="there is no"):
        Mutant(file, "", "a", "b", tests).check(ROOT)
