"""The commands of README and documentation, run in the order of each page, on the clusters that the page deploys.

What a page says to save is saved, what it says is printed has to be printed. Each page has a folder, a home and a
memory of runs of its own; in the end nothing of it may be up.
"""

from __future__ import annotations

import doctest
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from documents import ROOT, Block, blocks, has_account, pages

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.images.cache import Cache
from nomad_testkit.settings import ENV_PREFIX, Settings
from nomad_testkit.targets.embedded import image_builder
from nomad_testkit.targets.embedded.target import agents_of

log = logging.getLogger(__name__)

SECONDS = 300.0
"""For one block; far more than any takes."""
REGION = "us-east-1"
RUN = [page for page in pages() if any(block.runs for block in blocks(page))]
CHECKER = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Shell:
    """A shell that goes on from block to block: its folder, its variables."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._state = folder.parent / "shell-state"

    def run(self, script: str) -> tuple[int, str]:
        """Run a script; its status, and what it printed. A command that fails ends it."""
        state = shlex.quote(str(self._state))
        whole = f"[ ! -e {state} ] || . {state}\ntrap 'export -p > {state}' EXIT\nset -a -e -o pipefail\n{script}"
        process = subprocess.Popen(
            ["bash", "-c", whole],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)  # so that it destroys what it was deploying
            process.communicate()
            raise
        print(f"$ {script}{out}{err}")
        return process.returncode, out


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    folder = tmp_path / "work"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "AWS_", "PYTEST_"))}
    environment = kept | {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        f"{ENV_PREFIX}CACHE": str(Cache().root),
        f"{ENV_PREFIX}STATE": str(tmp_path / "state"),
        "CHECKOUT": str(ROOT),
        # Go's, for what a test builds, are where they were; only nomad_testkit gets a home of its own.
        "GOPATH": go("GOPATH"),
        "GOCACHE": go("GOCACHE"),
        "GOMODCACHE": go("GOMODCACHE"),
    }
    (tmp_path / "home").mkdir()
    made = Shell(folder, environment)
    try:
        yield made
    finally:
        status, _ = Shell(folder, environment).run("nomad-testkit sweep\n")
    assert status == 0


def go(name: str) -> str:
    try:
        return subprocess.run(["go", "env", name], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@contextmanager
def account(shell: Shell) -> Iterator[None]:
    """Put an embedded EC2 with an AMI of its own in the place of an account of AWS's."""
    cache, agents = Cache(), agents_of(Settings.load(environ={}), progress=log.info)
    debian = image_builder.base(cache, log.info)
    own = image_builder.agents_image(cache, debian, agents, region=REGION, progress=log.info)
    with EmbeddedEc2.start(region=REGION, images=[own, debian]) as cloud:
        shell.environment |= {
            "AWS_ENDPOINT_URL": cloud.endpoint_url,
            **cloud.credentials.environment(),
            f"{ENV_PREFIX}AMI": own.image_id,
            f"{ENV_PREFIX}AWS_SOURCE_CIDR": f"{cloud.machine_address}/32",
        }
        yield


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page(page: Path, shell: Shell) -> None:
    if has_account(page):
        with account(shell):
            follow(blocks(page), shell)
    else:
        follow(blocks(page), shell)
    status, out = shell.run("nomad-testkit status --json\n")
    assert (status, json.loads(out)) == (0, {"runs": []}), "the page leaves something up"


def follow(page: list[Block], shell: Shell) -> None:
    printed = ""
    for block in page:
        if name := block.notes.get("file"):
            path = shell.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.runs:
            status, printed = shell.run(block.text)
            assert status == int(block.notes.get("exit", 0)), f"{block}: ended with {status}; it printed: {printed}"
        elif "prints" in block.notes:
            assert CHECKER.check_output(block.text, printed, FLAGS), f"{block}: it printed: {printed}"
