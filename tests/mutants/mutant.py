"""One small fault in the package, and the tests that must notice it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


class MisplacedError(Exception):
    """A mutant's place is not in the code any more, or more than once."""


UNIT = Path(__file__).parents[1] / "unit"


def test_file(name: str) -> str:
    """Find the unit tests of this name, such as ``checks_health``, in whichever folder they are.

    >>> test_file("checks_health")
    'checks/test_checks_health.py'
    """
    file, _, test = name.partition("::")
    found = [path.relative_to(UNIT) for path in UNIT.rglob(f"test_{file}.py")]
    path = found[0] if len(found) == 1 else Path(f"test_{file}.py")
    return f"{path}::{test}" if test else str(path)


test_file.__test__ = False  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of `old` to `new` within one function of one file.

    >>> mutant = Mutant("checks/health.py", "_unhealthy", "not a or b", "not a and b", ("test_checks_health.py",))
    >>> mutant.place
    'nomad_testkit/checks/health.py: _unhealthy'
    """

    file: str
    """Below nomad_testkit."""
    function: str
    """Its qualified name, such as ``Journal.left``; empty for the whole module."""
    old: str
    """Text that the function has exactly once."""
    new: str
    tests: tuple[str, ...]
    """Files below tests/unit, or single tests of slow ones, such as ``test_jobs.py::test_a_job_ends``."""
    reason: str = ""
    """Why it may survive; without one it must not."""

    @property
    def place(self) -> str:
        """Where the fault is made."""
        return f"nomad_testkit/{self.file}: {self.function or 'module'}"

    def applied(self, source: str) -> str:
        """Return the file's text with the fault. Raises MisplacedError that names the place."""
        begin, end = self._span(source)
        found = source[begin:end].count(self.old)
        if found != 1:
            raise MisplacedError(f"{self.place}: expected {self.old!r} once, found it {found} times")
        mutated = source[:begin] + source[begin:end].replace(self.old, self.new) + source[end:]
        try:
            same = ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(source))
        except SyntaxError as error:
            raise MisplacedError(f"{self.place}: {self.new!r} is no Python there: {error}") from error
        if same:
            raise MisplacedError(f"{self.place}: {self.new!r} changes nothing")
        return mutated

    def check(self, root: Path) -> None:
        """Raise MisplacedError where the place or a test file is missing."""
        for name in self.tests:
            file, _, test = name.partition("::")
            path = root / "tests/unit" / file
            if not path.is_file():
                raise MisplacedError(f"{self.place}: there is no tests/unit/{file}")
            if test and f"def {test}(" not in path.read_text():
                raise MisplacedError(f"{self.place}: there is no {test} in tests/unit/{file}")
        self.applied(self.read(root))

    def read(self, root: Path) -> str:
        """Return the text of its file. Raises MisplacedError where there is none."""
        try:
            return self.path(root).read_text()
        except FileNotFoundError as error:
            raise MisplacedError(f"{self.place}: there is no such file") from error

    def path(self, root: Path) -> Path:
        """Return its file below a checkout or a copy of one."""
        return root / "nomad_testkit" / self.file

    def _span(self, source: str) -> tuple[int, int]:
        if not self.function:
            return 0, len(source)
        scope: list[ast.stmt] = ast.parse(source).body
        node: ast.stmt | None = None
        for part in self.function.split("."):
            definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            named = [one for one in scope if isinstance(one, definitions) and one.name == part]
            if len(named) != 1:
                raise MisplacedError(f"{self.place}: expected one definition of {part!r}, found {len(named)}")
            node, scope = named[0], named[0].body
        assert node is not None
        assert node.end_lineno is not None
        lines = source.splitlines(keepends=True)
        return len("".join(lines[: node.lineno - 1])), len("".join(lines[: node.end_lineno]))
