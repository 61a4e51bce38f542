"""A build with the Go toolchain, from a go.mod and go.sum that stand in ``gomod/NAME/VERSION/``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.errors import Missing
from nomad_testkit.events import Progress
from nomad_testkit.images.agents import golang
from nomad_testkit.images.agents.binary import AgentName

_PINS = Path(__file__).parent / "gomod"


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How an agent is built; every word of it is part of the cache's key."""

    cgo: bool
    tags: str
    ldflags: str


# Both are linked statically, so that a binary built here runs on a host with an older C library.
_RECIPES: dict[AgentName, _Recipe] = {
    "consul": _Recipe(cgo=False, tags="", ldflags="-s -w"),
    # The exec driver's namespace entry (libcontainer's nsenter) is C.
    "nomad": _Recipe(cgo=True, tags="osusergo,netgo", ldflags='-s -w -linkmode external -extldflags "-static"'),
}


def pinned_versions(name: AgentName) -> tuple[str, ...]:
    """List the versions of `name` that can be built here, each of which has a folder in ``gomod/``.

    >>> pinned_versions("nomad")
    ('1.6.1',)
    """
    return tuple(sorted(folder.name for folder in (_PINS / name).iterdir()))


def recipe_digest(name: AgentName, version: str) -> str:
    """Return a digest of everything that decides what a build makes, but for the Go release.

    A binary stays good when the machine's Go changes or goes away.
    """
    digest = hashlib.sha256(repr(_RECIPES[name]).encode())
    for file in ("go.mod", "go.sum"):
        digest.update((_PINS / name / version / file).read_bytes())
    return digest.hexdigest()[:12]


def lacking(name: AgentName, version: str) -> list[Missing]:
    """List what stands in the way of building `name` in `version` on this machine."""
    pinned = pinned_versions(name)
    if version not in pinned:
        return [
            Missing(
                f"a go.mod to build {name} {version} from (there is one for {' and '.join(pinned)})",
                f"use version {' or '.join(pinned)}, or name a binary of version {version}",
            )
        ]
    return golang.lacking(_program(name, version))


def build(name: AgentName, version: str, architecture: str, folder: Path, progress: Progress) -> Path:
    """Build `name` in one of its pinned versions into `folder` and return the binary's path.

    Raises AgentSourceError; see `golang.build`.
    """
    return golang.build(_program(name, version), architecture, folder, progress)


def _program(name: AgentName, version: str) -> golang.GoProgram:
    recipe = _RECIPES[name]
    return golang.GoProgram(
        name,
        version,
        _PINS / name / version,
        f"github.com/hashicorp/{name}",
        cgo=recipe.cgo,
        tags=recipe.tags,
        ldflags=recipe.ldflags,
    )
