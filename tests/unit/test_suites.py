"""The environments of tox: by default all of them run, and every test on real hosts is in exactly one."""

from __future__ import annotations

import configparser
import json
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_UNIT = ("lint", "unit", "mutants")
ON_REQUEST = {"images"}
"""They make whole systems from a mirror, which takes minutes and depends on it."""
"""Those that boot no host."""
# Prints of each test its id and its marks.
COLLECT = """
import json, sys, pytest

class Tell:
    def pytest_collection_finish(self, session):
        found = {item.nodeid: sorted({mark.name for mark in item.iter_markers()}) for item in session.items}
        print("collected:" + json.dumps(found))

sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Tell()]))
"""


@pytest.fixture(scope="module")
def tox() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini")
    return parser


def names(text: str) -> list[str]:
    return text.replace(",", " ").split()


def pytest_arguments(tox: configparser.ConfigParser, name: str) -> tuple[list[str], str]:
    """The paths that an environment hands to pytest, and its expression of marks."""
    text = tox[f"testenv:{name}"]["commands"]
    for found, instead in (
        ("{[suites]limited}", tox["suites"]["limited"]),
        ("{[folders]hosts}", tox["folders"]["hosts"]),
        ("{posargs:tests/docs}", "tests/docs"),
        ("{posargs}", ""),
    ):
        text = text.replace(found, instead)
    words = shlex.split(text)
    words = words[words.index("pytest") + 1 :]
    marks = words[words.index("-m") + 1] if "-m" in words else "True"
    return [word for word in words if (ROOT / word).exists() and "/" in word], marks


def test_all_suites_run_by_default_and_alone_comes_last(tox: configparser.ConfigParser) -> None:
    listed = names(tox["tox"]["env_list"])
    sections = {section.removeprefix("testenv:") for section in tox.sections() if section.startswith("testenv:")}
    assert sorted(listed) == sorted(set(listed))
    assert sections == {*listed, *ON_REQUEST}
    assert ON_REQUEST.isdisjoint(listed)
    assert listed[-1] == "alone"
    assert names(tox["testenv:alone"]["depends"]) == listed[:-1]
    assert tox["testenv"]["parallel_show_output"] == "true"


def test_suites_on_hosts_do_not_see_each_others_runs(tox: configparser.ConfigParser) -> None:
    """The suite of the wheel strips the variables that a user would not have; nothing else uses the user's state."""
    for name in (*names(tox["tox"]["env_list"]), *ON_REQUEST):
        if name not in (*WITH_UNIT, "wheel"):
            assert "{[suites]apart}" in tox[f"testenv:{name}"]["set_env"], name


def test_every_run_of_pytest_has_a_time_limit(tox: configparser.ConfigParser) -> None:
    for section in tox.sections():
        for line in tox[section].get("commands", "").splitlines():
            assert not line.startswith(("pytest", "python -m pytest")), f"{section}: {line}"
    assert float(tox["suites"]["limited"].split()[-1]) <= 2700


def test_every_test_on_hosts_is_in_one_suite(tox: configparser.ConfigParser) -> None:
    folders = [*(ROOT / "tests").iterdir(), ROOT / "nomad_testkit" / "suite"]
    folders = [path for path in folders if path.name != "unit" and [*path.glob("test_*.py")]]
    command = [sys.executable, "-c", COLLECT, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("collected:"))
    collected: dict[str, list[str]] = json.loads(line.removeprefix("collected:"))
    assert {path.name for path in folders} == {Path(node.partition("::")[0]).parent.name for node in collected}

    every = [*names(tox["tox"]["env_list"]), *ON_REQUEST]
    suites = {name: pytest_arguments(tox, name) for name in every if name not in WITH_UNIT}
    chosen = {
        node: [
            name
            for name, (paths, expression) in suites.items()
            if any(Path(node.partition("::")[0]).is_relative_to(path) for path in paths)
            and eval(expression, {}, defaultdict(bool, dict.fromkeys(marks, True)))
        ]
        for node, marks in collected.items()
    }
    assert {node: found for node, found in chosen.items() if len(found) != 1} == {}
