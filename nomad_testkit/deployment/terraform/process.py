"""Running Terraform or OpenTofu: its words go to a file, so that it outlives this process unharmed, and are followed.

A program that writes to a pipe whose reader was killed is killed as well, and what it was creating is then in no state.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.deployment.interrupts import deferred
from nomad_testkit.deployment.terraform.messages import Said
from nomad_testkit.errors import TerraformError, WaitTimeout
from nomad_testkit.events import Progress
from nomad_testkit.examples.terraform_tool import Tool
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

logger = logging.getLogger(__name__)

GRACE_SECONDS = 120.0
"""How long an interrupted program may take to end what it was at, and to write its state."""
_FORCED_SECONDS = 10.0
_ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Runner:
    """Runs one program in one folder, with one environment."""

    tool: Tool
    directory: Path
    environment: Mapping[str, str]
    log: Path
    """Gets everything that the program says, as it says it; only its owner can read it."""
    secrets: Sequence[str] = ()

    def work(self, arguments: Sequence[str], *, deadline: Deadline, progress: Progress) -> tuple[int, Said]:
        """Run a command that may take long to its end, and give its status and what it said.

        It gets one interrupt, and time to end, at the deadline and when this process is interrupted; and also when this
        process is killed. Raises TerraformError where it did not end in time, or cannot be run.
        """
        said = Said(self.secrets)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as output, self.log.open("rb") as heard:
            heard.seek(0, os.SEEK_END)
            with self._started(arguments, output) as process:
                rest = b""

                def listen() -> None:
                    nonlocal rest
                    *whole, rest = (rest + heard.read()).split(b"\n")
                    for line in whole:
                        if told := said.hear(line.decode(errors="replace")):
                            progress(f"{self.tool.product}: {told}")

                def probe() -> Ok[int] | Pending:
                    status = process.poll()
                    listen()
                    return Pending("it runs") if status is None else Ok(status)

                late = False
                try:
                    status = wait_until(f"`{self._name(arguments)}`", probe, deadline=deadline)
                except WaitTimeout:
                    late, status = True, _interrupt(process, progress)
                listen()
                if rest:
                    said.hear(rest.decode(errors="replace"))
        if late:
            raise TerraformError(
                f"`{self._name(arguments)}` did not end in time and was interrupted; its own words:\n{said.own_words()}"
            )
        return status, said

    def ask(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        """Run a short command, and give its status and what it printed; none of that goes to the log.

        Raises TerraformError where it does not end, or cannot be run.
        """
        try:
            done = subprocess.run(
                [str(self.tool.path), *arguments],
                cwd=self.directory,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_ANSWER_SECONDS,
                start_new_session=True,
                check=False,
            )
        except OSError as error:
            raise self._not_run(error) from error
        except subprocess.TimeoutExpired as error:
            raise TerraformError(f"`{self._name(arguments)}` did not end within {_ANSWER_SECONDS:.0f} s") from error
        return done.returncode, done.stdout, done.stderr

    def document(self, arguments: Sequence[str]) -> Any:
        """Run a short command that prints JSON. Raises TerraformError where it prints something else."""
        status, printed, complained = self.ask(arguments)
        try:
            return json.loads(printed)
        except ValueError as error:
            said = Said(self.secrets)
            for line in (complained or "").splitlines():
                said.hear(line)
            name = self._name(arguments)
            raise TerraformError(f"`{name}` ended with status {status}; its own words:\n{said.own_words()}") from error

    @contextlib.contextmanager
    def _started(self, arguments: Sequence[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
        # Where the process that started it is killed, it ends as if it were interrupted, and writes its state.
        leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        try:
            process = subprocess.Popen(
                [*leash, str(self.tool.path), *arguments],
                cwd=self.directory,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches it once, from here
            )
        except OSError as error:
            raise self._not_run(error) from error
        try:
            yield process
        except BaseException:
            _interrupt(process, logger.info)
            raise
        finally:
            # What a provisioner has started and not waited for.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _name(self, arguments: Sequence[str]) -> str:
        return f"{self.tool.path.name} {arguments[0]}"

    def _not_run(self, error: OSError) -> TerraformError:
        return TerraformError(f"{self.tool.path} cannot be run in {self.directory}: {error.strerror or error}")


def _interrupt(process: subprocess.Popen[bytes], progress: Progress) -> int:
    """Interrupt a program once, and let it end; who does not hear is told again, and then killed."""
    with deferred(progress):
        for number, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGINT, _FORCED_SECONDS)):
            if process.poll() is not None:
                break
            # To the program alone: its plugins end when it says so, and a provisioner's command with it.
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        if process.poll() is None:
            logger.warning("%s did not end within %.0f s after it was interrupted", process.args, GRACE_SECONDS)
            process.kill()
        return process.wait()
