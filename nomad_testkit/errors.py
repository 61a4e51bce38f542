"""Every error that nomad_testkit raises on purpose; each message says what to do next.

::

    TestkitError
    ├── UsageError                bad input: names the file, key or option, what was found, what was expected
    │   ├── SettingsError         an option, environment variable or ini value
    │   └── ExampleError          an example folder
    ├── PreflightError            what this machine or the AWS account lacks, all at once, with the remedy for each
    ├── CacheError                the cache folder: full, unreadable, damaged beyond repair
    ├── AgentSourceError          a binary, an agent's or another: wrong checksum, version, architecture, failed build
    ├── Ec2Error                  the embedded EC2 could not start, attach or end
    │   ├── ImageError            an AMI or the base image
    │   └── MachineError          one host of it
    ├── DeployError               a plan step was refused by the API
    │   └── FailedBefore          what several tests share could not be made when the first of them asked
    ├── TerraformError            Terraform or OpenTofu refused a configuration or could not apply it; its own words
    ├── PackerError               Packer refused a template or could not build it; keeps Packer's own words
    ├── TeardownError             something is left over; lists it
    ├── HostError                 SSH to a host
    │   └── CommandFailed         a command on a host ended with another status than 0
    ├── FaultError                a fault could not be made, or not be undone; lists what is left of it
    ├── AgentApiError             Consul's or Nomad's HTTP API; keeps status and message
    ├── BrokenError               a wait ended early: what was waited for can no longer come
    ├── WaitTimeout               a wait ended at its deadline
    ├── CheckFailed               a check's verdict is negative
    └── HistoryError              the file with the history of runs cannot be used; names the remedy
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class TestkitError(Exception):
    """Base of every error that nomad_testkit raises on purpose."""

    __test__ = False  # pytest would collect it otherwise: its name starts with "Test"
    cause = ""
    """The cause in one line, for errors whose message begins with something else."""


class UsageError(TestkitError):
    """Bad input from the user."""


class SettingsError(UsageError):
    """An option, environment variable or ini value that cannot be used."""


class ExampleError(UsageError):
    """An example folder that cannot be used."""


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that this machine lacks, and the remedy.

    >>> str(Missing("systemd-nspawn", "apt-get install systemd-container"))
    'systemd-nspawn: apt-get install systemd-container'
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


class PreflightError(TestkitError):
    """Everything that this machine, or the account to deploy to, lacks, listed at once."""

    def __init__(self, missing: Sequence[Missing], *, where: str = "this machine") -> None:
        self.missing = tuple(missing)
        lines = "\n".join(f"  - {item}" for item in self.missing)
        super().__init__(f"{where} lacks {len(self.missing)} thing(s) that are needed:\n{lines}")


class CacheError(TestkitError):
    """The cache folder cannot be used."""


class AgentSourceError(TestkitError):
    """A binary, such as Consul or Nomad, could not be obtained, or is not the requested one."""


class Ec2Error(TestkitError):
    """The embedded EC2 could not start, be attached to, or end."""


class ImageError(Ec2Error):
    """An AMI or the base image could not be made or used."""


class MachineError(Ec2Error):
    """One host of the embedded EC2 failed."""


class DeployError(TestkitError):
    """A step of a plan was refused."""


class FailedBefore(DeployError):
    """A fixture that several tests share failed for the first of them; the message repeats that error."""


class PackerError(TestkitError):
    """Packer refused a template, or could not build an AMI from it."""


class TerraformError(TestkitError):
    """Terraform or OpenTofu refused a configuration, or could not apply it."""


class TeardownError(TestkitError):
    """Something is left over after a teardown."""


class HostError(TestkitError):
    """A host could not be reached over SSH."""


class CommandFailed(HostError):
    """A command on a host ended with a non-zero status."""

    def __init__(self, host: str, command: str, status: int, stdout: str, stderr: str) -> None:
        self.host, self.command, self.status = host, command, status
        self.stdout, self.stderr = stdout, stderr
        tail = (stderr.strip() or stdout.strip())[-2000:]
        super().__init__(f"{host}: `{command}` ended with status {status}: {tail or '(no output)'}")


class FaultError(TestkitError):
    """A fault could not be injected, or not be undone completely."""


class AgentApiError(TestkitError):
    """Consul's or Nomad's HTTP API answered with an error, or not at all (then `status` is None)."""

    def __init__(self, agent: str, url: str, status: int | None, message: str) -> None:
        self.agent, self.url, self.status, self.message = agent, url, status, message
        answered = f"answered {status}" if status is not None else "did not answer"
        super().__init__(f"{agent} at {url} {answered}: {message.strip()}")


class BrokenError(TestkitError):
    """A wait ended early: its condition can no longer come true."""


class WaitTimeout(TestkitError):
    """A wait ended at its deadline."""


class CheckFailed(TestkitError):
    """A check's verdict is negative."""


class HistoryError(TestkitError):
    """The file with the history of runs cannot be used."""


def headline(error: BaseException) -> str:
    """Return an error's cause in one line; never raise.

    >>> headline(CheckFailed("NodesReady(2): clients-1 is missing\\n    wanted: 2 ready clients"))
    'NodesReady(2): clients-1 is missing'
    """
    text = getattr(error, "cause", "") or (said(error).strip().splitlines() or [""])[0]
    return " ".join(str(text).split()) or type(error).__name__


def said(error: BaseException) -> str:
    """Return an error's message with its notes; never raise, even if the error's `__str__` does."""
    try:
        return "\n".join([str(error), *map(str, getattr(error, "__notes__", None) or ())])
    except Exception as second:
        return f"({type(error).__name__} that cannot be shown: {type(second).__name__})"


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Return the names nearest to an unknown one, as the end of a message; empty if none is near.

    >>> did_you_mean("num_server", ["num_servers", "ami_id"])
    '; did you mean num_servers?'
    """
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    if not close and isinstance(name, str) and name:
        close = [one for one in known if one.startswith(name)][:2]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def near_miss(name: object, names: Iterable[str]) -> str:
    """Return the nearest names, or else all of them, as the end of a message.

    >>> near_miss("zone", ["num_servers", "ami_id"])
    'expected one of ami_id, num_servers'
    """
    known = sorted(names)
    every = f"expected one of {', '.join(known)}" if known else "expected none"
    return did_you_mean(name, known).removeprefix("; ") or every
