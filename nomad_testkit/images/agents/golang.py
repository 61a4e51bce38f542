"""How the Go toolchain builds a program from a module with pinned dependencies, and what that needs of a machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nomad_testkit.errors import AgentSourceError, Missing, WaitTimeout
from nomad_testkit.events import Progress
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

_BUILD_SECONDS = 3600.0
_PROGRESS_SECONDS = 5.0
_GO_ANSWER_SECONDS = 60.0
# From this release on, a Go that is too old fetches the one that go.mod asks for (https://go.dev/doc/toolchain).
_FIRST_GO_THAT_UPGRADES_ITSELF = (1, 21)
_INSTALL_GO = "install Go from https://go.dev/dl/ and put its bin folder in PATH"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program that Go can build: what it is, where its module stands, and how it is compiled."""

    name: str
    """Also the binary's name."""
    version: str
    module: Path
    """A folder with go.mod and go.sum, and with the sources where they are no dependency."""
    package: str
    """What is compiled, as `go build` is told: an import path, or ``.`` for the module itself."""
    cgo: bool = False
    tags: str = ""
    ldflags: str = "-s -w"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def lacking(program: GoProgram) -> list[Missing]:
    """List what stands in the way of building a program on this machine."""
    missing: list[Missing] = []
    if (go := _find_go()) is None:
        missing.append(Missing("Go, to build " + program.name, _INSTALL_GO))
    elif (too_old := _go_too_old(go, program)) is not None:
        missing.append(too_old)
    if program.cgo:
        missing += _c_toolchain_lacking(program.name)
    return missing


def build(program: GoProgram, architecture: str, folder: Path, progress: Progress) -> Path:
    """Build a program into `folder` and return the binary's path.

    `progress` gets a line every few seconds. Raises AgentSourceError with the end of Go's own output when the build
    fails, and when it takes longer than an hour.
    """
    go = _find_go()
    if go is None:
        raise AgentSourceError(f"{program} cannot be built: no Go on this machine; {_INSTALL_GO}")
    module = folder / "module"
    # A copy: the package's own folder may be read-only.
    shutil.copytree(program.module, module)
    log = folder / "build.log"
    binary = folder / program.name
    command = [go, "build", "-v", "-trimpath", "-tags", program.tags, "-ldflags", program.ldflags]
    command += ["-o", str(binary), program.package]
    progress(f"building {program} with {go}; this takes some minutes the first time")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=module,
            env=_build_environment(program, architecture),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        status = _wait_for(process, log, f"a build of {program}", progress)
    finally:
        _end(process)
    if status != 0:
        raise AgentSourceError(
            f"building {program} with {go} ended with status {status}; the end of its output:\n{_tail(log)}"
        )
    shutil.rmtree(module)
    log.unlink()
    return binary


def _find_go() -> str | None:
    # Go's own installation instructions put it in /usr/local/go, and root's PATH often lacks that.
    usual = Path("/usr/local/go/bin/go")
    return shutil.which("go") or (str(usual) if usual.exists() else None)


def _go_too_old(go: str, program: GoProgram) -> Missing | None:
    go_mod = (program.module / "go.mod").read_text()
    match = re.search(r"^go (\d+)\.(\d+)", go_mod, re.MULTILINE)
    assert match is not None, "a go.mod has a go line"
    needed = (int(match[1]), int(match[2]))
    words = f"Go {needed[0]}.{needed[1]} or newer, to build {program.name}"
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


def _c_toolchain_lacking(name: str) -> list[Missing]:
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


def _build_environment(program: GoProgram, architecture: str) -> dict[str, str]:
    # What a user has set for a project of their own (vendoring, a workspace, another target) is not for this build;
    # GOPROXY, GOSUMDB, GOCACHE and the like are.
    return {
        **os.environ,
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOWORK": "off",
        "GOOS": "linux",
        "GOARCH": architecture,
        "CGO_ENABLED": "1" if program.cgo else "0",
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
