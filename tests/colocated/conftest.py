"""Clusters of a test's own, for tests that break them: in one cloud for all, so that each costs only its boot."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deploying import Deploy, Variant

from nomad_testkit import Cluster, Example
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target

log = logging.getLogger(__name__)

BUNDLED = "nomad-consul-colocated-cluster"
AGENTS_BEGIN = "/opt/consul/bin/run-consul"


@pytest.fixture
def deploy(nomad_settings: Settings, nomad_target: Target, tmp_path: Path) -> Deploy:
    """Give a context manager that deploys an example, small unless it says otherwise."""

    @contextmanager
    def run(example: Example) -> Iterator[Cluster]:
        settings = replace(nomad_settings, artifacts=tmp_path / "artifacts")
        with deployed(settings, example, target=nomad_target, progress=log.info) as cluster:
            yield cluster

    return run


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    """Give a function that copies the bundled example with other user data for the servers, and other variables.

    `first` is run before the agents are started; `instead` takes the place of the lines that start them.
    """

    def make(*, first: str = "", instead: str | None = None, **variables: Any) -> Example:
        folder = tmp_path / "example"
        shutil.copytree(Example.load(BUNDLED).folder, folder)
        script = folder / "user-data-server.sh"
        head, agents, tail = script.read_text().partition(AGENTS_BEGIN)
        script.write_text(head + first + "\n" + (agents + tail if instead is None else instead))
        return Example.load(folder).replace(**variables)

    return make
