"""OpenTofu, built with Go from its module: for the tests of examples in its language, on machines that have none."""

from __future__ import annotations

import hashlib
from pathlib import Path

from nomad_testkit.errors import AgentSourceError
from nomad_testkit.events import Progress
from nomad_testkit.images.agents import golang
from nomad_testkit.images.agents.binary import machine_architecture
from nomad_testkit.images.cache import Cache

OPENTOFU = golang.GoProgram(
    "tofu",
    "1.10.10",
    Path(__file__).parent / "gomod" / "opentofu" / "1.10.10",
    "github.com/opentofu/opentofu/cmd/tofu",
    # As its releases are made; without this it calls itself a development build.
    ldflags="-s -w -X github.com/opentofu/opentofu/version.dev=no",
)
_KIND = "agents"


def get_opentofu(cache: Cache, progress: Progress) -> Path:
    """Give the program `tofu`, from the cache or built with Go, which takes some minutes the first time.

    Raises AgentSourceError with what keeps it from being built, and CacheError.

    >>> get_opentofu(Cache(), print).name  # doctest: +SKIP
    'tofu'
    """
    architecture, pinned = machine_architecture(), hashlib.sha256(OPENTOFU.ldflags.encode())
    for file in ("go.mod", "go.sum"):
        pinned.update((OPENTOFU.module / file).read_bytes())
    key = {
        "agent": "opentofu",
        "architecture": architecture,
        "source": "build",
        "version": OPENTOFU.version,
        "recipe": pinned.hexdigest()[:12],
    }
    if cache.find(_KIND, key) is None and (lacking := golang.lacking(OPENTOFU)):
        raise AgentSourceError(f"{OPENTOFU} cannot be built: " + "; ".join(map(str, lacking)))
    return cache.get(_KIND, key, lambda folder: golang.build(OPENTOFU, architecture, folder, progress)) / OPENTOFU.name
