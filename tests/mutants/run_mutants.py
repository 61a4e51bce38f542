"""Make each fault of the list, one at a time, in a copy of the checkout, and name those that no test notices."""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mutant import MisplacedError, Mutant
from mutant_list import MUTANTS

ROOT = Path(__file__).parents[2]
COPIED = (
    *("conftest.py", "docs", "examples", "fixtures", "nomad_testkit", "pyproject.toml"),
    *("README.md", "tests", "tox.ini", ".gitignore", ".ci"),
)
MUTANT_SECONDS = 120.0
"""Far longer than any mutant's tests take, so that what does not end by then says nothing about the tests."""
BASELINE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant."""

    mutant: Mutant
    verdict: str
    """killed, survived, timeout or error."""
    seconds: float
    output: str = ""


def run_tests(copy: Path, files: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Return pytest's exit status, None after `seconds`, and what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
    tests = [f"tests/unit/{name}" for name in files]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command, *tests],
            cwd=copy,
            env={**environ, "PYTHONPATH": str(copy)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):  # whatever a test has started goes with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")[-3000:]


def try_mutant(copy: Path, mutant: Mutant) -> Outcome:
    """Make the fault in the copy, run its tests, and take it back."""
    began = time.monotonic()
    path, source = mutant.path(copy), mutant.read(copy)
    path.write_text(mutant.applied(source))
    try:
        status, output = run_tests(copy, mutant.tests, MUTANT_SECONDS)
    finally:
        path.write_text(source)
    # 1: a test failed. Others, such as nothing collected (5) or no import (2), say nothing about the tests.
    verdict = {0: "survived", 1: "killed", None: "timeout"}.get(status, "error")
    return Outcome(mutant, verdict, time.monotonic() - began, output)


def make_copies(folder: Path, count: int) -> list[Path]:
    """Copy the checkout; pyc files are checked by hash, since a fault may change neither size nor second."""
    copies = [folder / f"copy-{number}" for number in range(count)]
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for copy in copies:
        copy.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=ignored, symlinks=True)
            elif (ROOT / name).exists():
                shutil.copy2(ROOT / name, copy / name)
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(copy / "nomad_testkit", quiet=2, invalidation_mode=mode)
    where = subprocess.run(
        [sys.executable, "-c", "import nomad_testkit; print(nomad_testkit.__file__)"],
        cwd=copies[0],
        env={**os.environ, "PYTHONPATH": str(copies[0])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(where).is_relative_to(copies[0]):
        raise SystemExit(f"expected nomad_testkit to be imported from {copies[0]}, found {where}")
    return copies


def run(mutants: Sequence[Mutant], jobs: int) -> int:
    """Try the mutants, print the survivors, and return the exit status."""
    for mutant in mutants:
        mutant.check(ROOT)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name, ThreadPoolExecutor(jobs) as pool:
        copies = make_copies(Path(name), jobs)
        files = sorted({test for mutant in mutants for test in mutant.tests})
        parts = [part for part in (files[number::jobs] for number in range(jobs)) if part]
        timeouts = [BASELINE_SECONDS] * len(parts)
        for status, output in pool.map(run_tests, copies, parts, timeouts):
            if status != 0:
                print(f"{output}\nwithout any fault the tests must pass; pytest ended with {status}")
                return 1
        print(f"{len(files)} test files pass without a fault ({time.monotonic() - began:.0f} s)", flush=True)
        free: queue.Queue[Path] = queue.Queue()
        for copy in copies:
            free.put(copy)

        def attempt(mutant: Mutant) -> Outcome:
            copy = free.get()
            try:
                return try_mutant(copy, mutant)
            finally:
                free.put(copy)

        outcomes = []
        for outcome in pool.map(attempt, mutants):
            outcomes.append(outcome)
            one = outcome.mutant
            print(f"{outcome.verdict:9}{outcome.seconds:5.1f} s  {one.place}: {one.old!r} -> {one.new!r}", flush=True)
    return report(outcomes, time.monotonic() - began)


def report(outcomes: Sequence[Outcome], seconds: float) -> int:
    """Print what survived and why; 1 where that has no reason, or a mutant could not be tried."""
    bad = 0
    for outcome in outcomes:
        mutant = outcome.mutant
        if outcome.verdict == "killed":
            if mutant.reason:
                bad += 1
                print(f"\nKILLED, so it needs no reason any more: {mutant.place}: {mutant.old!r}")
            continue
        bad += outcome.verdict in ("error", "timeout") or not mutant.reason
        print(f"\n{outcome.verdict.upper()} {mutant.place}\n  change: {mutant.old!r} -> {mutant.new!r}")
        print(f"  tests:  {', '.join(mutant.tests)}\n  reason: {mutant.reason or 'none: write a test, or a reason'}")
        if outcome.verdict in ("error", "timeout"):
            print(outcome.output)
    killed = sum(outcome.verdict == "killed" for outcome in outcomes)
    print(f"\n{killed} of {len(outcomes)} mutants killed in {seconds:.0f} s; {bad} to mend")
    return 1 if bad else 0


def main() -> int:
    """Run the mutants whose place or change contains the given text, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="", help="only the mutants with this text in their place or change")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    options = parser.parse_args()
    chosen = [one for one in MUTANTS if options.text in f"{one.place} {one.old} {one.new}"]
    if not chosen:
        print(f"no mutant has {options.text!r} in its place or change")
        return 1
    try:
        return run(chosen, options.jobs)
    except MisplacedError as error:
        print(f"{error}\nThe code has changed there: mend the list in tests/mutants/mutant_list.py.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
