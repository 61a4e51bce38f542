"""The order in which an agent's sources are tried, and why each of them was not the one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from nomad_testkit.errors import AgentSourceError, Missing
from nomad_testkit.events import Progress
from nomad_testkit.images.agents import build, release
from nomad_testkit.images.agents.binary import Agent, AgentName, Source, inspect, machine_architecture, sha256_of
from nomad_testkit.images.cache import Cache

DEFAULT_CONSUL = "1.14.0"
DEFAULT_NOMAD = "1.6.1"

_KIND = "agents"


def get_agent(
    name: AgentName,
    version: str,
    *,
    binary: Path | None = None,
    cache: Cache | None = None,
    progress: Progress,
    releases: str | None = None,
) -> Agent:
    """Return a checked binary of `name` in `version`.

    Tried in this order: `binary`, the cache, the official release (`releases`, else $NOMAD_TESTKIT_RELEASES_URL, else
    https://releases.hashicorp.com), a build with Go. Raises AgentSourceError when a binary is not what was asked for
    (both values are shown), and when no source has it (the reason of each is shown); CacheError for the cache folder.
    """
    architecture = machine_architecture()
    if binary is not None:
        return _given(binary, name, version, architecture)
    cache = cache or Cache()
    if (cached := _cached(name, version, architecture, cache)) is not None:
        return cached
    try:
        sha256 = release.published_sha256(name, version, architecture, base_url=releases)
        return _from_release(name, version, architecture, sha256, cache, progress, releases)
    except release.ReleaseUnavailable as error:
        reason = str(error)
    progress(f"no release of {name} {version}: {reason}")
    if lacking := build.lacking(name, version):
        raise AgentSourceError(f"{name} {version} cannot be had. {_obstacles(name, reason, lacking)}")
    return _from_build(name, version, architecture, cache, progress)


def preflight(
    name: AgentName,
    version: str,
    *,
    binary: Path | None = None,
    cache: Cache,
    releases: str | None = None,
) -> list[Missing]:
    """List what keeps `get_agent` from getting `name` in `version`; downloads and builds nothing.

    Asks the release site for its checksums (about 3 s where it cannot be reached) only if nothing else has the agent.
    """
    try:
        architecture = machine_architecture()
        if binary is not None:
            _given(binary, name, version, architecture)
            return []
    except AgentSourceError as error:
        return [Missing(f"{name} {version}", str(error))]
    if _cached(name, version, architecture, cache) is not None:
        return []
    if not (lacking := build.lacking(name, version)):
        return []
    try:
        release.published_sha256(name, version, architecture, base_url=releases)
    except release.ReleaseUnavailable as error:
        return [Missing(f"{name} {version}", _obstacles(name, str(error), lacking))]
    return []


def cached_agent(name: AgentName, version: str, *, cache: Cache) -> Agent | None:
    """Find an agent that has been got before; gets none. Raises AgentSourceError on another architecture."""
    return _cached(name, version, machine_architecture(), cache)


def _obstacles(name: AgentName, reason: str, lacking: list[Missing]) -> str:
    build_reasons = "; ".join(f"lacks {item.what} ({item.remedy})" for item in lacking)
    return f"Release: {reason}. Build: {build_reasons}. Remedy one of these, or name a {name} binary of your own"


def _given(binary: Path, name: AgentName, version: str, architecture: str) -> Agent:
    path = binary.expanduser().absolute()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "not there"
        raise AgentSourceError(f"{path}, named as the {name} binary, is {found}; name an executable file")
    try:
        inspect(path, name, version, architecture)
        return Agent(name, version, path, sha256_of(path), "given")
    except OSError as error:
        raise AgentSourceError(f"{path}, named as the {name} binary, cannot be read: {error}") from error


def _release_key(name: AgentName, version: str, architecture: str) -> Mapping[str, str]:
    return {"agent": name, "architecture": architecture, "source": "release", "version": version}


def _build_key(name: AgentName, version: str, architecture: str) -> Mapping[str, str]:
    return {
        "agent": name,
        "architecture": architecture,
        "source": "build",
        "version": version,
        "recipe": build.recipe_digest(name, version),
    }


def _cached(name: AgentName, version: str, architecture: str, cache: Cache) -> Agent | None:
    content = cache.find(_KIND, _release_key(name, version, architecture))
    if content is not None:
        return _entry(content, name, version, "release")
    if version not in build.pinned_versions(name):
        return None
    content = cache.find(_KIND, _build_key(name, version, architecture))
    return None if content is None else _entry(content, name, version, "build")


def _from_release(
    name: AgentName,
    version: str,
    architecture: str,
    sha256: str,
    cache: Cache,
    progress: Progress,
    releases: str | None,
) -> Agent:
    def make(content: Path) -> None:
        path = release.download(name, version, architecture, sha256, content, progress, base_url=releases)
        _seal(content, path, name, version, architecture, "the release")

    return _entry(cache.get(_KIND, _release_key(name, version, architecture), make), name, version, "release")


def _from_build(name: AgentName, version: str, architecture: str, cache: Cache, progress: Progress) -> Agent:
    def make(content: Path) -> None:
        path = build.build(name, version, architecture, content, progress)
        _seal(content, path, name, version, architecture, "the build")

    return _entry(cache.get(_KIND, _build_key(name, version, architecture), make), name, version, "build")


def _seal(content: Path, path: Path, name: AgentName, version: str, architecture: str, origin: str) -> None:
    """Prove what was made, and note its checksum: hosts compare it with what they get."""
    try:
        inspect(path, name, version, architecture)
    except AgentSourceError as error:
        raise AgentSourceError(f"{origin} of {name} {version} is refused: {error}") from error
    (content / "agent.json").write_text(json.dumps({"sha256": sha256_of(path)}))


def _entry(content: Path, name: AgentName, version: str, source: Source) -> Agent:
    sha256 = json.loads((content / "agent.json").read_text())["sha256"]
    return Agent(name, version, content / name, sha256, source)
