"""Clusters that are only lines in a file, for tests of what the plugin does with them."""

from __future__ import annotations

import os

import pytest

# A target and a deployment that are only lines in a file, put in the place of the real ones.
FAKES = """
import os
from contextlib import contextmanager
from pathlib import Path
import pytest

LOG = Path(__file__).with_name("log")

def say(line):
    with LOG.open("a") as file:
        file.write(line + "\\n")

class FakeTarget:
    def describe(self):
        return {"name": "fake"}

    def client(self, service):
        return self

    def get_paginator(self, call):
        return self

    def paginate(self, **how):
        return [{"Reservations": []}]

class FakeExample:
    variables = {"num_clients": 1}

    def __init__(self, topology="colocated"):
        from nomad_testkit.examples.example import Roles

        self.name, self.folder, self.file = topology, Path(topology), Path(topology, "example.toml")
        servers = ("servers",) if topology == "colocated" else ("nomad_servers",)
        self.roles = Roles(("servers",), servers, ("clients",))

    def deployed(self, outputs):
        return self

# nomad_cluster asks for its example first. What is replaced is imported only then, for most runs here have no cluster.
@pytest.fixture(scope="session")
def nomad_example():
    replace()
    return FakeExample()

def replace():
    from nomad_testkit import targets
    from nomad_testkit.deployment import lifecycle
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.examples.example import Roles

    @contextmanager
    def open_target(settings, *, progress):
        say("open")
        yield FakeTarget()
        say("close")

    @contextmanager
    def attach_target(description):
        yield FakeTarget()

    @contextmanager
    def deployed(settings, example, *, target, progress):
        say("deploy")
        progress("ready after 0.0 s")
        if os.environ.get("FAIL_DEPLOYMENT"):
            from nomad_testkit.errors import BrokenError

            error = BrokenError("host i-1: unit consul failed")
            error.add_note("evidence of nt-1 is in /somewhere")
            raise error
        roles = Roles(("servers",), ("servers",), ("clients",))
        yield Cluster("nt-20260101-abcdef", target, [], roles, "admin", Path("key"), example)
        say("destroy")

    targets.open_target, targets.attach_target, lifecycle.deployed = open_target, attach_target, deployed
"""


def deployments_alone(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings and the state of whoever runs these tests away from a run of pytest in one."""
    for name in [name for name in os.environ if name.startswith(("NOMAD_TESTKIT_", "PYTEST_XDIST_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(pytester.path / "state"))


def run(project: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run pytest to its end."""
    # Loaded here too where the package is not installed, as in a checkout that only PYTHONPATH knows.
    return project.runpytest_subprocess("-p", "nomad_testkit.plugin", "-p", "no:cacheprovider", *args, timeout=240)


def log(project: pytest.Pytester) -> list[str]:
    """List what was done with targets and clusters."""
    path = project.path / "log"
    return path.read_text().splitlines() if path.exists() else []
