"""The checker of histories: a small Go program of ours over porcupine, built once and cached as the agents are.

Porcupine (https://github.com/anishathalye/porcupine) searches for an order of all operations that explains every
answer and keeps to their times. What there is to explain is a register with compare-and-set for each key.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nomad_testkit.errors import AgentSourceError, Missing, PreflightError, TestkitError
from nomad_testkit.events import Progress
from nomad_testkit.images.agents import golang
from nomad_testkit.images.agents.binary import elf_architecture, machine_architecture
from nomad_testkit.images.cache import Cache

Verdict = Literal["ok", "illegal", "unknown"]

LIMIT = 60.0
"""Seconds for the check of a history; most take less than one."""
_KIND = "checkers"
_NAME = "linearizability-checker"
_MODULE = Path(__file__).parent / "gomod"


@dataclass(frozen=True, slots=True)
class Violation:
    """A key whose operations nothing explains, and a few of them that suffice to see it, by their ids."""

    key: str
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the checker says of a history."""

    verdict: Verdict
    """``unknown`` where the time was too short for some keys, and no other key is illegal."""
    keys: int
    operations: int
    """How many the verdict rests on: those that failed, and gets without an answer, prove nothing."""
    violations: tuple[Violation, ...]
    undecided: tuple[str, ...]
    seconds: float


def lacking(cache: Cache) -> list[Missing]:
    """List what keeps `get_checker` from getting the checker on this machine; builds nothing."""
    architecture = machine_architecture()
    return [] if cache.find(_KIND, _key(architecture)) is not None else golang.lacking(_program())


def get_checker(cache: Cache | None, progress: Progress) -> Path:
    """Return the checker's path, after building it if `cache`, by default the user's, lacks it.

    Raises PreflightError that lists what a build lacks, AgentSourceError with Go's own words where it fails, and
    CacheError for the cache folder.
    """
    architecture = machine_architecture()
    cache = cache or Cache()
    if missing := lacking(cache):
        raise PreflightError(missing)

    def make(content: Path) -> None:
        binary = golang.build(_program(), architecture, content, progress)
        if (found := elf_architecture(binary)) != architecture:
            raise AgentSourceError(f"{binary} was built for {found}, this machine needs {architecture}")

    return cache.get(_KIND, _key(architecture), make) / _NAME


def judge(
    checker: Path, history: Path, *, picture: Path | None = None, faults: Path | None = None, limit: float = LIMIT
) -> Judgement:
    """Check a history, a file as `OperationHistory.write` makes it; `limit` is in seconds.

    Where it is illegal, `picture` becomes an HTML page of it, with the faults of the file `faults`. Raises
    TestkitError with the checker's own words where it cannot read one of the files.
    """
    command = [str(checker), "-limit", f"{max(1, round(limit * 1000))}ms"]
    command += ["-html", str(picture)] if picture else []
    command += ["-faults", str(faults)] if faults else []
    ended = subprocess.run(
        [*command, str(history)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode != 0:
        said = ended.stderr.strip()[-2000:]
        raise TestkitError(
            f"the checker of {history} ended with status {ended.returncode}: {said or 'it said nothing'}"
        )
    told = json.loads(ended.stdout)
    return Judgement(
        told["verdict"],
        told["keys"],
        told["operations"],
        tuple(Violation(one["key"], tuple(one["operations"])) for one in told["illegal"]),
        tuple(told["undecided"]),
        told["seconds"],
    )


def _program() -> golang.GoProgram:
    go_mod = (_MODULE / "go.mod").read_text()
    found = re.search(r"^require github\.com/anishathalye/porcupine v(\S+)$", go_mod, re.MULTILINE)
    assert found is not None, "its go.mod requires porcupine"
    return golang.GoProgram(_NAME, found[1], _MODULE, ".")


def _key(architecture: str) -> dict[str, str]:
    digest = hashlib.sha256(repr(golang.GoProgram(_NAME, "", Path(), ".")).encode())
    for file in sorted(_MODULE.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return {"program": _NAME, "architecture": architecture, "recipe": digest.hexdigest()[:12]}
