"""What a binary is: its architecture by its ELF header, its name and version by asking it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nomad_testkit.errors import AgentSourceError

AgentName = Literal["consul", "nomad"]
Source = Literal["given", "release", "build"]

_VERSION_SECONDS = 60.0
# The names are Go's and the release site's. Numbers: e_machine in the ELF specification's generic ABI.
_ARCHITECTURES = {62: "amd64", 183: "arm64"}
_OTHER_ARCHITECTURES = {3: "386", 40: "arm", 8: "mips", 20: "ppc", 21: "ppc64le", 22: "s390x", 243: "riscv64"}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class Agent:
    """A Consul or Nomad binary that has been checked: name, version and architecture are what they should be."""

    name: AgentName
    version: str
    path: Path
    sha256: str
    source: Source


def machine_architecture() -> str:
    """Tell this machine's architecture in the release site's words, ``amd64`` or ``arm64``.

    Raises AgentSourceError on any other.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise AgentSourceError(
            f"this machine's architecture is {machine}; Consul and Nomad are supported here on "
            f"{' and '.join(sorted(set(_MACHINES.values())))}"
        )
    return _MACHINES[machine]


def elf_architecture(path: Path) -> str:
    """Tell the architecture of the executable at `path` by its ELF header.

    Raises AgentSourceError when it is no ELF executable, or is cut short within the header.
    """
    with path.open("rb") as file:
        header = file.read(20)
    if header[:4] != b"\x7fELF":
        what = "is empty" if not header else f"begins with {header[:4]!r}"
        raise AgentSourceError(f"{path} is not a Linux executable: it {what}, not with an ELF header")
    if len(header) < 20:
        raise AgentSourceError(f"{path} is cut short: it has {len(header)} bytes, less than an ELF header")
    byte_order = ">" if header[5] == 2 else "<"
    (machine,) = struct.unpack(f"{byte_order}H", header[18:20])
    return _ARCHITECTURES.get(machine) or _OTHER_ARCHITECTURES.get(machine) or f"ELF machine {machine}"


def inspect(path: Path, name: AgentName, version: str, architecture: str) -> None:
    """Prove that the binary at `path` is `name` in `version` for `architecture`.

    Raises AgentSourceError with the value found and the value wanted.
    """
    found = elf_architecture(path)
    if found != architecture:
        raise AgentSourceError(
            f"{path} is for architecture {found}, this machine needs {architecture}; get {name} for {architecture}"
        )
    found_name, found_version = reported_version(path)
    if found_name != name:
        raise AgentSourceError(f"{path} is {found_name}, wanted is {name}")
    if found_version != version:
        raise AgentSourceError(
            f"{path} is {name} {found_version}, wanted is {name} {version}; name a binary of that version, or ask for "
            f"version {found_version}"
        )


def identify(path: Path) -> Agent:
    """Tell which agent in which version the binary at `path` is, for this machine's architecture.

    Raises AgentSourceError for what is neither Consul nor Nomad.

    >>> identify(Path("/usr/bin/consul"))  # doctest: +SKIP
    Agent(name='consul', version='1.14.0', ...)
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        raise AgentSourceError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; name an executable file")
    found, needed = elf_architecture(path), machine_architecture()
    if found != needed:
        raise AgentSourceError(f"{path} is for architecture {found}, this machine needs {needed}")
    name, version = reported_version(path)
    for known in get_args(AgentName):
        if name == known:
            return Agent(known, version, path, sha256_of(path), "given")
    raise AgentSourceError(f"{path} is {name}; expected {' or '.join(get_args(AgentName))}")


def reported_version(path: Path) -> tuple[str, str]:
    """Return the name, lower case, and the version that the binary itself reports.

    The first line of its ``version`` command is ``Consul v1.14.0`` or ``Nomad v1.6.1``. Raises AgentSourceError when
    it cannot be run or reports something else.
    """
    command = [str(path), "version"]
    # CONSUL_* and NOMAD_* of the user's environment are about another cluster.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CONSUL_", "NOMAD_"))}
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_SECONDS,
            env=environment,
            check=False,
        )
    except OSError as error:
        hint = f"; chmod +x {path}" if isinstance(error, PermissionError) else "; get it again, it may be damaged"
        raise AgentSourceError(f"{path} cannot be run: {error.strerror}{hint}") from error
    except subprocess.TimeoutExpired as error:
        raise AgentSourceError(f"`{path} version` did not end within {_VERSION_SECONDS:.0f} s") from error
    match = re.match(r"(\w+) v(\S+)", ended.stdout)
    if ended.returncode != 0 or match is None:
        said = (ended.stdout + ended.stderr).strip()[:300] or "(nothing)"
        raise AgentSourceError(
            f"`{path} version` ended with status {ended.returncode} and said {said!r}, expected e.g. 'Consul v1.14.0'; "
            "get the binary again, it may be damaged or another program"
        )
    return match[1].lower(), match[2]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
