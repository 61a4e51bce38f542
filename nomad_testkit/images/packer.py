"""Packer: templates validated and AMIs built by the program `packer`, whose own words are in every error."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nomad_testkit.errors import Missing, PackerError
from nomad_testkit.events import Progress
from nomad_testkit.wait import Deadline

logger = logging.getLogger(__name__)

VALIDATE_SECONDS = 60.0
CLEANUP_SECONDS = 120.0
"""How long an interrupted Packer may take to terminate its instance."""
FIRST_WITH_PLUGINS = (1, 7)
"""Since this version a template is a whole folder, which may name the plugins that it needs; before, one file."""
REMEDY = "apt-get install packer, or see https://developer.hashicorp.com/packer/install"
_LAST_LINES = 20
_PHASE = re.compile(r"==> [^:]+: ((?:Launching|Connected|Uploading|Stopping|Waiting for AMI|Terminating).*)")
"""What is worth a person's attention."""


@dataclass(frozen=True)
class Template:
    """A template in HCL2 or JSON, a file or a folder, with values for its variables.

    >>> Template(Path("nomad-consul-ami"), {"aws_region": "us-east-1"}, only="*.debian-12").options()
    ['-only=*.debian-12', '-var', 'aws_region=us-east-1']
    """

    path: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    only: str = ""
    """A glob that chooses the builds to run; empty for all."""

    def options(self) -> list[str]:
        """Give the options of `packer validate` and `packer build`."""
        chosen = [f"-only={self.only}"] if self.only else []
        return [*chosen, *(word for name, value in self.variables.items() for word in ("-var", f"{name}={value}"))]

    def argument(self, version: tuple[int, ...]) -> Path:
        """Give what Packer is to read.

        An older one refuses the block `required_plugins`: of a folder it reads the one file besides plugins.pkr.hcl.
        """
        if self.path.is_dir() and version < FIRST_WITH_PLUGINS:
            files = [path for path in sorted(self.path.glob("*.pkr.hcl")) if path.name != "plugins.pkr.hcl"]
            if len(files) == 1:
                return files[0].absolute()
        return self.path.absolute()


def preflight() -> list[Missing]:
    """List what this machine lacks to build images."""
    if shutil.which("packer"):
        return []
    return [Missing("packer", REMEDY)]


def packer_version() -> tuple[int, ...]:
    """Ask Packer for its version. Raises PackerError."""
    said = "\n".join(_run(["version"], os.environ, Deadline.after(VALIDATE_SECONDS)).texts)
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise PackerError(f"`packer version` named none; it said: {said}")
    return tuple(map(int, found.groups()))


def validate(template: Template, environment: Mapping[str, str]) -> None:
    """Let Packer look at a template. Raises PackerError with its words, and a note for a path where nothing is."""
    if not template.path.exists():
        raise PackerError(f"there is no Packer template at {template.path}; expected a file *.pkr.hcl or its folder")
    version = packer_version()
    argument = template.argument(version)
    deadline = Deadline.after(VALIDATE_SECONDS)
    if version >= FIRST_WITH_PLUGINS and argument.is_dir():
        initialized = _run(["init", str(argument)], environment, deadline)
        _refuse(initialized, f"Packer cannot get the plugins of {template.path}")
    _refuse(
        _run(["validate", *template.options(), str(argument)], environment, deadline), f"Packer refuses {template.path}"
    )


def build(template: Template, environment: Mapping[str, str], *, deadline: Deadline, progress: Progress) -> str:
    """Build the one AMI that a template makes, and give its id.

    Packer is interrupted at the deadline, or when this is, and then removes what it has made. Raises PackerError.
    """
    argument = template.argument(packer_version())
    command = ["build", "-color=false", *template.options(), str(argument)]
    done = _run(command, environment, deadline, progress)
    _refuse(done, f"Packer could not build {template.path}")
    if len(done.images) != 1:
        made = ", ".join(done.images) or "none"
        which = f"the builds {template.only!r}" if template.only else "all builds"
        raise PackerError(f"{which} of {template.path} made these AMIs: {made}; expected one, which `only` can choose")
    return done.images[0]


def environment(*, endpoint_url: str | None, region: str, credentials: Mapping[str, str] | None) -> dict[str, str]:
    """Give Packer's environment: with these `credentials` and none of the user's AWS settings; for None with theirs."""
    given = dict(os.environ, CHECKPOINT_DISABLE="1", PACKER_NO_COLOR="1")
    if credentials is None:
        return given | ({"AWS_ENDPOINT_URL": endpoint_url} if endpoint_url else {})
    kept = {name: value for name, value in given.items() if not name.startswith("AWS_")}
    return kept | {
        **credentials,
        "AWS_REGION": region,
        "AWS_ENDPOINT_URL": endpoint_url or "",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_POLL_DELAY_SECONDS": "1",
    }


@dataclass
class _Said:
    """What a Packer has said so far (https://developer.hashicorp.com/packer/docs/commands#machine-readable-output)."""

    status: int = -1
    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def hear(self, line: str) -> str | None:
        """Take one line; gives the text in it that is meant for people."""
        _, _, kind, *data = [*line.rstrip("\n").split(",", 4), "", "", ""]
        words = [_plain(word) for word in data if word]
        if kind == "ui" and len(words) == 2:
            self.texts.append(words[1].strip())
            if words[0] == "error":
                self.errors.append(words[1].strip())
            return words[1]
        if kind == "artifact" and words and words[-1].startswith("id,"):
            # For each region, as us-east-1:ami-0abc
            self.images += [one.rpartition(":")[2] for one in words[-1].removeprefix("id,").split(",")]
        return None

    def own_words(self) -> str:
        last = self.texts[-_LAST_LINES:]
        errors = [error for error in self.errors if error not in last]
        return "\n".join([*errors, *last]) or "(nothing)"


def _plain(text: str) -> str:
    return text.replace("%!(PACKER_COMMA)", ",").replace("\\n", "\n").replace("\\r", "")


def _refuse(said: _Said, what: str) -> None:
    if said.status:
        raise PackerError(f"{what} (status {said.status}). Packer's own words:\n{said.own_words()}")


def _run(
    arguments: list[str], environment: Mapping[str, str], deadline: Deadline, progress: Progress | None = None
) -> _Said:
    """Run Packer to its end; it is interrupted at the deadline, and by whatever interrupts this."""
    said = _Said()
    # Where the process that started Packer is killed, Packer still cleans up; its outer process passes on TERM alone.
    leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    try:
        process = subprocess.Popen(
            [*leash, "packer", *arguments[:1], "-machine-readable", *arguments[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environment),
            start_new_session=True,  # so that Ctrl-C reaches it once, from here
        )
    except OSError as error:
        raise PackerError(f"packer cannot be run: {error}; {REMEDY}") from error
    with _ending(process, deadline) as late:
        assert process.stdout is not None
        for line in process.stdout:
            text = said.hear(line)
            if text and progress is not None and (phase := _PHASE.match(text)):
                progress(f"packer: {phase[1]}")
        said.status = process.wait()
    if late.is_set():
        raise PackerError(
            f"`packer {arguments[0]}` did not end in time and was interrupted. Its own words:\n{said.own_words()}"
        )
    return said


@contextlib.contextmanager
def _ending(process: subprocess.Popen[str], deadline: Deadline) -> Iterator[threading.Event]:
    """Interrupt Packer at the deadline, which sets the event, and where the block fails; see that it ends."""
    late = threading.Event()

    def expire() -> None:
        late.set()
        _interrupt(process)

    timer = threading.Timer(deadline.remaining(), expire)
    timer.daemon = True
    timer.start()
    try:
        yield late
    except BaseException:
        _interrupt(process)
        raise
    finally:
        timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _interrupt(process: subprocess.Popen[str]) -> None:
    """Let Packer terminate its instance and end; it ends for good when that takes too long."""
    if process.poll() is not None:
        return
    # To all of its processes, as a terminal does: the outer one ignores it, the inner one cleans up, plugins go on.
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(CLEANUP_SECONDS)
    except subprocess.TimeoutExpired:
        logger.warning("packer did not clean up within %.0f s after it was interrupted", CLEANUP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
