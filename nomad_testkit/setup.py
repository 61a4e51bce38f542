"""Make a fresh Debian or Ubuntu machine ready, then run a command: ``python3 -m nomad_testkit.setup tox``.

It installs the system packages that are missing (and names them first), makes a virtual environment with tox in the
cache folder, and becomes the command, with that environment first in PATH. Only the standard library is imported, and
nothing newer than Python 3.8 is used, so that a Python that is too old gets a message and no traceback.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

OLDEST_PYTHON = (3, 11)
# tox-uv: with pip, each of tox's environments takes most of a minute to make, with uv a few seconds.
TOX = ("tox>=4.23,<5", "tox-uv>=1.25")
USAGE = """usage: python3 -m nomad_testkit.setup COMMAND [ARGUMENT…]

Install what this Debian or Ubuntu machine lacks, then run COMMAND with tox in PATH, for example:

    python3 -m nomad_testkit.setup tox -e colocated    the main job: a real cluster, checked
    python3 -m nomad_testkit.setup tox                 all tests, two suites at a time
    python3 -m nomad_testkit.setup --install packer    what only some tests need: they install it by themselves

It must be run by root. $NOMAD_TESTKIT_CACHE names the folder for everything slow (default: ~/.cache/nomad-testkit)."""

# Seconds to wait for another apt, such as unattended-upgrades on a machine that has just booted.
_APT_LOCK_SECONDS = 600
_APT_SECONDS = 1800
_PIP_SECONDS = 900
# Most suites wait more than they compute, so on two processors two of them pass in little more time than one.
_AT_ONCE = "2"
_UV_NAMES = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}


@dataclass(frozen=True)
class Problem:
    """Something that this program cannot set up, and the remedy."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Need:
    """A system package, and the program in PATH or the file that shows it is installed."""

    package: str
    program: str = ""
    file: str = ""

    def met(self) -> bool:
        """Return whether the package's program or file exists; one is enough."""
        if self.program and find_program(self.program) is not None:
            return True
        return bool(self.file) and Path(self.file).exists()


NEEDS = (
    Need("systemd-container", program="systemd-nspawn"),
    Need("nftables", program="nft"),
    Need("iproute2", program="ip"),
    Need("mmdebstrap", program="mmdebstrap"),
    Need("gpg", program="gpg"),  # mmdebstrap finds the archive's keys with it
    Need("debian-archive-keyring", file="/usr/share/keyrings/debian-archive-keyring.gpg"),
    Need("ca-certificates", file="/etc/ssl/certs/ca-certificates.crt"),
)
# Only a build of Nomad needs these, so only a machine that has Go does.
GO_NEEDS = (Need("gcc", program="gcc"), Need("libc6-dev", file="/usr/include/stdlib.h"))

# Only some tests need these, so only they have them installed.
OPTIONAL_NEEDS = {
    "packer": Need("packer", program="packer"),
    "chromium": Need("chromium", program="chromium"),
    "bsdtar": Need("libarchive-tools", program="bsdtar"),
    "qemu-img": Need("qemu-utils", program="qemu-img"),
    "sfdisk": Need("fdisk", program="sfdisk"),
    "go": Need("golang-go", program="go", file="/usr/local/go/bin/go"),
}


class SetupError(Exception):
    """The machine could not be made ready; the message says what to do next."""


def find_program(name: str) -> str | None:
    """Return the path of a program; root's PATH may lack the folders of administration programs."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, "/usr/local/sbin", "/usr/sbin", "/sbin"]))


def problems(
    *, system: str, python: tuple[int, int], root: bool, has_apt: bool, lacking: Sequence[str]
) -> list[Problem]:
    """List the obstacles that this program cannot remove."""
    found = []
    if system != "Linux":
        found.append(Problem(f"found the system {system}, expected Linux", "use a Debian or Ubuntu machine"))
    if python < OLDEST_PYTHON:
        found.append(
            Problem(
                f"found Python {python[0]}.{python[1]}, expected {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer",
                "use Debian 12, Ubuntu 24.04 or newer, or run this with a newer python3",
            )
        )
    if not root:
        found.append(Problem("the user is not root", "run the same command with sudo"))
    if lacking and not has_apt:
        found.append(
            Problem(
                "system packages are missing and there is no apt-get: " + ", ".join(lacking),
                "use Debian or Ubuntu, or install them (the names are Debian's) by this system's own means",
            )
        )
    return found


def lacking_packages(*, has_venv: bool, has_go: bool, python: tuple[int, int]) -> list[str]:
    """List the system packages that are missing, by Debian's names."""
    needs = NEEDS + (GO_NEEDS if has_go else ())
    lacking = [need.package for need in needs if not need.met()]
    if not has_venv:
        lacking.append(f"python{python[0]}.{python[1]}-venv")
    return lacking


def cache_root(environment: Mapping[str, str]) -> Path:
    """Return the cache folder, by the same rules as `nomad_testkit.images.cache.Cache`."""
    if environment.get("NOMAD_TESTKIT_CACHE"):
        return Path(environment["NOMAD_TESTKIT_CACHE"]).expanduser().absolute()
    base = environment.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return Path(base).expanduser() / "nomad-testkit"


def environment_folder(root: Path, *, python: str, version: str) -> Path:
    """Return where the virtual environment for this Python and tox requirement stands."""
    key = "\n".join([python, version, *TOX]).encode()
    return root / "tools" / f"tox-py{version}-{hashlib.sha256(key).hexdigest()[:12]}"


def make_environment(folder: Path, run: Callable[[list[str], int], object], say: Callable[[str], None]) -> None:
    """Make the virtual environment in `folder` unless it is there whole; of two runs at once, one makes it.

    A virtual environment holds its own path, so it cannot be made elsewhere and moved: a file that is written last
    tells that it is whole.
    """
    complete = folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{folder.name}.lock", say):
        if complete.exists() and (folder / "bin" / "tox").exists():
            return
        say(f"making a virtual environment with {' and '.join(TOX)} in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            run([sys.executable, "-m", "venv", str(folder)], _PIP_SECONDS)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
            run([*pip, "install", "--quiet", *TOX], _PIP_SECONDS)
            complete.write_text("\n".join(TOX) + "\n")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock on the file at `path`; the kernel releases it if this process dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is at work on {path.parent}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(packages: Sequence[str], run: Callable[[list[str], int], object], say: Callable[[str], None]) -> None:
    """Install system packages with apt-get, after naming them."""
    say("installing missing system packages: " + " ".join(packages))
    apt = ["apt-get", "-q", "-o", f"DPkg::Lock::Timeout={_APT_LOCK_SECONDS}"]
    run([*apt, "update"], _APT_SECONDS)
    run([*apt, "install", "--yes", "--no-install-recommends", *packages], _APT_SECONDS)


def check(lacking: Sequence[str]) -> list[Problem]:
    """List what stands in the way of this machine, and tell it."""
    found = problems(
        system=platform.system(),
        python=(sys.version_info[0], sys.version_info[1]),
        root=os.geteuid() == 0,
        has_apt=find_program("apt-get") is not None,
        lacking=lacking,
    )
    if found:
        print("nomad_testkit.setup: this machine cannot be made ready:", file=sys.stderr)
        for problem in found:
            print(f"  - {problem.what}: {problem.remedy}", file=sys.stderr)
    return found


def install_optional(names: Sequence[str], run: Callable[[list[str], int], object], say: Callable[[str], None]) -> int:
    """Install what is missing of OPTIONAL_NEEDS, and return the exit status."""
    unknown = [name for name in names if name not in OPTIONAL_NEEDS]
    if unknown or not names:
        found = " ".join(unknown) or "nothing"
        print(f"--install names {found}; expected one or more of: {' '.join(OPTIONAL_NEEDS)}", file=sys.stderr)
        return 2

    def lacking() -> list[str]:
        return [OPTIONAL_NEEDS[name].package for name in names if not OPTIONAL_NEEDS[name].met()]

    if not lacking():
        return 0
    if check(lacking()):
        return 1
    folder = cache_root(os.environ) / "tools"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two suites begin at the same time, and a second `apt-get update` fails instead of waiting.
        with locked(folder / ".apt.lock", say):
            if packages := lacking():
                install(packages, run, say)
    except (SetupError, OSError) as error:
        print(f"nomad_testkit.setup: {error}", file=sys.stderr)
        print(f"Where this system has no such package, put {' '.join(names)} into PATH yourself.", file=sys.stderr)
        return 1
    return 0


def run_command(command: list[str], seconds: int) -> str:
    """Run a command and return what it said, which is shown only when it fails."""
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8")
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            env=environment,
            check=False,
        )
    except OSError as error:
        raise SetupError(f"{command[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"`{' '.join(command)}` did not end within {seconds} s; try again") from error
    said = ended.stdout.decode(errors="replace")
    if ended.returncode != 0:
        tail = "\n".join(said.splitlines()[-25:])
        raise SetupError(
            f"`{' '.join(command)}` ended with status {ended.returncode}; its output:\n{tail}\n"
            "Remedy what it says (often the network or a full disk), then run the same command again."
        )
    return said


def become(command: Sequence[str], folder: Path, settings: Mapping[str, str]) -> NoReturn:
    """Replace this process by the command, with the virtual environment's programs first in PATH."""
    path = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)])
    environment = {**settings, **os.environ, "PATH": path}
    sys.stdout.flush()
    try:
        os.execvpe(command[0], list(command), environment)  # noqa: S606 (the point of it)
    except OSError as error:
        raise SetupError(f"{command[0]} cannot be run: {error.strerror}; name a command, e.g. tox") from error


def uv_settings(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return as uv's environment variables what pip is configured to use, since uv reads none of pip's settings.

    `pip_config` is what ``pip config list`` prints, e.g. ``global.index-url='https://pypi.example.com/simple'``.
    """
    found = {}
    for option, variable in _UV_NAMES.items():
        match = re.search(rf"^(?:global|install|:env:)\.{option}='(.+)'$", pip_config, re.MULTILINE)
        if match and variable not in environment:
            found[variable] = match[1]
    return found


def tox_settings(command: Sequence[str]) -> dict[str, str]:
    """Return tox's environment variables for all suites, two at a time; a suite that is named runs alone, and live."""
    return {"TOX_PARALLEL": _AT_ONCE} if list(command) == ["tox"] else {}


def say(line: str) -> None:
    """Tell a person what is being done now."""
    print(f"nomad_testkit.setup: {line}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Do it all; return an exit status only when the command could not be run."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--install"):
        print(USAGE, file=sys.stdout if list(arguments) in (["-h"], ["--help"]) else sys.stderr)
        return 0 if list(arguments) in (["-h"], ["--help"]) else 2
    if arguments[0] == "--install":
        return install_optional(arguments[1:], run_command, say)
    python = (sys.version_info[0], sys.version_info[1])
    has_venv = importlib.util.find_spec("ensurepip") is not None
    has_go = OPTIONAL_NEEDS["go"].met()
    lacking = lacking_packages(has_venv=has_venv, has_go=has_go, python=python)
    if check(lacking):
        return 1
    try:
        if lacking:
            install(lacking, run_command, say)
        version = platform.python_version()
        folder = environment_folder(cache_root(os.environ), python=sys.executable, version=version)
        make_environment(folder, run_command, say)
        pip_config = run_command([str(folder / "bin" / "python"), "-m", "pip", "config", "list"], _PIP_SECONDS)
        become(arguments, folder, {**tox_settings(arguments), **uv_settings(pip_config, os.environ)})
    except SetupError as error:
        print(f"nomad_testkit.setup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"nomad_testkit.setup: {error}; make the cache folder writable and see that the disk is not full, or name "
            "another folder in $NOMAD_TESTKIT_CACHE",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
