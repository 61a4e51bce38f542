"""A build with the Go toolchain, from a go.mod and go.sum that stand in ``gomod/NAME/VERSION/``."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.agents.binary import AgentName
from nomad_testkit.errors import AgentSourceError, Missing, WaitTimeout
from nomad_testkit.model import Progress
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

_PINS = Path(__file__).parent / "gomod"
_BUILD_SECONDS = 3600.0
_PROGRESS_SECONDS = 5.0
_GO_ANSWER_SECONDS = 60.0
# From this release on, a Go that is too old fetches the one that go.mod asks for (https://go.dev/doc/toolchain).
_FIRST_GO_THAT_UPGRADES_ITSELF = (1, 21)
_INSTALL_GO = "install Go from https://go.dev/dl/ and put its bin folder in PATH"


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
                f"a go.mod to build {name} {version} from (only {' and '.join(pinned)} has one)",
                f"use version {' or '.join(pinned)}, or name a binary of version {version}",
            )
        ]
    missing: list[Missing] = []
    if (go := _find_go()) is None:
        missing.append(Missing("Go, to build " + name, _INSTALL_GO))
    elif (too_old := _go_too_old(go, name, version)) is not None:
        missing.append(too_old)
    if _RECIPES[name].cgo:
        missing += _c_toolchain_lacking(name)
    return missing


def build(name: AgentName, version: str, architecture: str, folder: Path, progress: Progress) -> Path:
    """Build `name` in one of its pinned versions into `folder` and return the binary's path.

    `progress` gets a line every few seconds. Raises AgentSourceError with the end of Go's own output when the build
    fails, and when it takes longer than an hour.
    """
    recipe = _RECIPES[name]
    go = _find_go()
    if go is None:
        raise AgentSourceError(f"{name} {version} cannot be built: no Go on this machine; {_INSTALL_GO}")
    module = folder / "module"
    # A copy: the package's own folder may be read-only.
    shutil.copytree(_PINS / name / version, module)
    log = folder / "build.log"
    binary = folder / name
    command = [go, "build", "-v", "-trimpath", "-tags", recipe.tags, "-ldflags", recipe.ldflags]
    command += ["-o", str(binary), f"github.com/hashicorp/{name}"]
    progress(f"building {name} {version} with {go}; this takes some minutes the first time")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=module,
            env=_build_environment(recipe, architecture),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        status = _wait_for(process, log, f"a build of {name} {version}", progress)
    finally:
        _end(process)
    if status != 0:
        raise AgentSourceError(
            f"building {name} {version} with {go} ended with status {status}; the end of its output:\n{_tail(log)}"
        )
    shutil.rmtree(module)
    log.unlink()
    return binary


def _find_go() -> str | None:
    # Go's own installation instructions put it in /usr/local/go, and root's PATH often lacks that.
    usual = Path("/usr/local/go/bin/go")
    return shutil.which("go") or (str(usual) if usual.exists() else None)


def _go_too_old(go: str, name: AgentName, version: str) -> Missing | None:
    go_mod = (_PINS / name / version / "go.mod").read_text()
    match = re.search(r"^go (\d+)\.(\d+)", go_mod, re.MULTILINE)
    assert match is not None, "a go.mod has a go line"
    needed = (int(match[1]), int(match[2]))
    words = f"Go {needed[0]}.{needed[1]} or newer, to build {name}"
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION", "GOTOOLCHAIN"],
            cwd="/",  # not in a module, whose go.mod could ask for another release
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GO_ANSWER_SECONDS,
            check=True,
        ).stdout.split()
        release = re.match(r"go(\d+)\.(\d+)", answer[0])
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return Missing(f"{words} ({go} does not work: {error})", _INSTALL_GO)
    if release is None:  # a development build of Go: "devel go1.27-…"
        return None
    found = (int(release[1]), int(release[2]))
    if found >= needed:
        return None
    upgrades_itself = found >= _FIRST_GO_THAT_UPGRADES_ITSELF and answer[1:] != ["local"]
    return None if upgrades_itself else Missing(f"{words} ({go} is {found[0]}.{found[1]})", _INSTALL_GO)


def _c_toolchain_lacking(name: AgentName) -> list[Missing]:
    remedy = "apt-get install gcc libc6-dev"
    compiler = os.environ.get("CC", "gcc").split()[0]
    if shutil.which(compiler) is None:
        return [Missing(f"a C compiler ({compiler}), to build {name}", remedy)]
    answer = subprocess.run(
        [compiler, "-print-file-name=libc.a"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_GO_ANSWER_SECONDS,
        check=False,
    ).stdout.strip()
    # The compiler answers with the bare name when it has no such file.
    return [] if Path(answer).is_absolute() else [Missing(f"a static C library (libc.a), to build {name}", remedy)]


def _build_environment(recipe: _Recipe, architecture: str) -> dict[str, str]:
    # What a user has set for a project of their own (vendoring, a workspace, another target) is not for this build;
    # GOPROXY, GOSUMDB, GOCACHE and the like are.
    return {
        **os.environ,
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
        "GOOS": "linux",
        "GOARCH": architecture,
        "CGO_ENABLED": "1" if recipe.cgo else "0",
    }


def _wait_for(process: subprocess.Popen[bytes], log: Path, what: str, progress: Progress) -> int:
    deadline = Deadline.after(_BUILD_SECONDS)
    told = 0

    def probe() -> Ok[int] | Pending:
        nonlocal told
        if (status := process.poll()) is not None:
            return Ok(status)
        elapsed = _BUILD_SECONDS - deadline.remaining()
        if elapsed >= (told + 1) * _PROGRESS_SECONDS:
            told = int(elapsed / _PROGRESS_SECONDS)
            progress(f"{what}: {elapsed:.0f} s, {_stage(log)}")
        return Pending(_stage(log))

    try:
        return wait_until(what, probe, deadline=deadline)
    except WaitTimeout as error:
        raise AgentSourceError(f"{error}; the end of its output:\n{_tail(log)}") from error


def _stage(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    downloaded = sum(line.startswith("go: downloading ") for line in lines)
    # With -v, every package that is compiled is a line; one that Go's build cache has is not.
    compiled = sum(not line.startswith("go: ") for line in lines)
    return f"{downloaded} modules downloaded, {compiled} packages compiled"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # go's compilers are its children: the whole group ends.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
