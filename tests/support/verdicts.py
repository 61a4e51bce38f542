"""Verdicts to compare a check's with, and changes of what its hosts answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nomad_testkit.cluster.check import Answer
from nomad_testkit.wait import Broken, Pending


@dataclass(frozen=True, eq=False)
class Saying:
    """Equals a verdict of the kind that begins with `start`, ends with `end` and has all the words in it."""

    kind: type
    words: tuple[str, ...]
    start: str
    end: str

    def __eq__(self, other: object) -> bool:
        text = str(getattr(other, "seen", getattr(other, "reason", getattr(other, "value", ""))))
        matches = text.startswith(self.start) and text.endswith(self.end) and all(one in text for one in self.words)
        return isinstance(other, self.kind) and matches

    def __hash__(self) -> int:
        return hash((self.kind, self.words, self.start, self.end))


def pending(*words: str, start: str = "", end: str = "") -> Saying:
    """Expect a check that does not hold yet, and says so in these words."""
    return Saying(Pending, words, start, end)


def broken(*words: str, start: str = "", end: str = "") -> Saying:
    """Expect a check that cannot hold any more, and says so in these words."""
    return Saying(Broken, words, start, end)


def first(answers: Sequence[Answer[Any]], value: Any = None, **facts: Any) -> tuple[Answer[Any], ...]:
    """Let the first host answer another value, or its own with other facts; the others answer as they did."""
    head, *others = answers
    return replace(head, value=replace(head.value, **facts) if facts else value), *others


def everyone(answers: Sequence[Answer[Any]], value: Any = None, **facts: Any) -> tuple[Answer[Any], ...]:
    """Let every host answer another value, or its own with other facts."""
    return tuple(replace(one, value=replace(one.value, **facts) if facts else value) for one in answers)
