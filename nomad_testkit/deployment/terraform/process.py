"""Run Terraform or OpenTofu with its output in a file that is followed.

Writing to a pipe would kill the program together with this process, and lose what it was creating from the state.
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
from nomad_testkit.deployment.terraform.messages import Output
from nomad_testkit.errors import TerraformError, WaitTimeout
from nomad_testkit.events import Progress
from nomad_testkit.examples.terraform_tool import Tool
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

logger = logging.getLogger(__name__)

GRACE_SECONDS = 120.0
"""For an interrupted program to finish its current operation and write its state."""
_FORCED_SECONDS = 10.0
_ANSWER_SECONDS = 120.0


@dataclass(frozen=True)
class Runner:
    """Runs one program in one folder, with one environment."""

    tool: Tool
    directory: Path
    environment: Mapping[str, str]
    log: Path
    """The program's raw output, readable by its owner only."""
    secrets: Sequence[str] = ()

    def work(self, arguments: Sequence[str], *, deadline: Deadline, progress: Progress) -> tuple[int, Output]:
        """Run a long command to its end, and return its status and output.

        At the deadline, or if this process is interrupted or killed, interrupt the command once and wait for it.
        Raise TerraformError if it does not end in time, or cannot be run.
        """
        said = Output(self.secrets)
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
                f"`{self._name(arguments)}` did not end in time and was interrupted; its output:\n{said.own_words()}"
            )
        return status, said

    def ask(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        """Run a short command, and return its status, stdout and stderr; the log gets none of it.

        Raise TerraformError if it does not end in time, or cannot be run.
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
        """Run a short command and parse its JSON. Raise TerraformError if it prints something else."""
        status, printed, complained = self.ask(arguments)
        try:
            return json.loads(printed)
        except ValueError as error:
            said = Output(self.secrets)
            for line in (complained or "").splitlines():
                said.hear(line)
            name = self._name(arguments)
            raise TerraformError(f"`{name}` ended with status {status}; its output:\n{said.own_words()}") from error

    @contextlib.contextmanager
    def _started(self, arguments: Sequence[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
        # If this process is killed, the program is interrupted and writes its state.
        leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        try:
            process = subprocess.Popen(
                [*leash, str(self.tool.path), *arguments],
                cwd=self.directory,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it once, from this process
            )
        except OSError as error:
            raise self._not_run(error) from error
        try:
            yield process
        except BaseException:
            _interrupt(process, logger.info)
            raise
        finally:
            # Processes that a provisioner started and did not wait for.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _name(self, arguments: Sequence[str]) -> str:
        return f"{self.tool.path.name} {arguments[0]}"

    def _not_run(self, error: OSError) -> TerraformError:
        return TerraformError(f"{self.tool.path} cannot be run in {self.directory}: {error.strerror or error}")


def _interrupt(process: subprocess.Popen[bytes], progress: Progress) -> int:
    """Interrupt a program, interrupt it once more if it does not end, then kill it."""
    with deferred(progress):
        for number, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGINT, _FORCED_SECONDS)):
            if process.poll() is not None:
                break
            # Signal the program alone: it ends its plugins, and a provisioner's command, itself.
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        if process.poll() is None:
            logger.warning("%s did not end within %.0f s after it was interrupted", process.args, GRACE_SECONDS)
            process.kill()
        return process.wait()
