"""Kill deployments at random moments, one after the other, and prove each time that nothing is left of them."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass

from nomad_testkit.cli.bench.machine_state import MachineState
from nomad_testkit.errors import TeardownError, WaitTimeout
from nomad_testkit.events import Progress
from nomad_testkit.settings import ENV_PREFIX
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

DEPLOY_SECONDS = 180.0
"""Until an undisturbed deployment has to be through, teardown and all."""
GONE_SECONDS = 120.0
"""Until all of a killed one has to be gone: a cloud whose maker never came for it ends by itself after a minute."""

_ONE_SERVER = """
import os
from nomad_testkit.examples.example import Example
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded.target import EmbeddedTarget

example = Example.load("nomad-consul-colocated-cluster").replace(num_servers=1, num_clients=0)
settings = Settings.load(environ=os.environ)
progress = lambda line: print(line, flush=True)
with EmbeddedTarget.open(settings, progress=progress) as target:
    with deployed(settings, example, target=target, progress=progress):
        pass
"""


@dataclass(frozen=True, slots=True)
class Killed:
    """One deployment and its end."""

    after: float
    """Seconds from its start to the SIGKILL."""
    during: str
    """The last that it said; empty where it had ended by itself."""
    gone: float
    """Seconds from the SIGKILL until nothing was left."""


def run_soak(runs: int, *, seed: int, progress: Progress) -> str:
    """Deploy a cluster of one server `runs` times, kill each deployment at a random moment, and sum up.

    The first deployment, which is not killed, tells how long one takes; the moments are spread evenly over that. The
    whole machine is compared with its state before, so nothing else of nomad_testkit may run on it.

    Raises TeardownError that names the moment and lists what is left, when something is.
    """
    chance = random.Random(seed)  # noqa: S311
    progress("deploying one server undisturbed")
    started = time.monotonic()
    process = _deploy()
    try:
        said, _ = process.communicate(timeout=DEPLOY_SECONDS)
    finally:
        _kill(process)
    if process.returncode:
        raise TeardownError(f"the deployment that was not killed failed:\n{said[-3000:]}")
    whole = time.monotonic() - started
    ended = []
    for number in range(1, runs + 1):
        ended.append(_deploy_and_kill(chance.uniform(0, whole), f"{number} of {runs} with seed {seed}"))
        progress(f"{number} of {runs}: {_said(ended[-1])}")
    return summary(ended, whole=whole, seed=seed)


def summary(ended: list[Killed], *, whole: float, seed: int) -> str:
    """Sum up.

    >>> print(summary([Killed(1.0, "creating servers", 0.5), Killed(9.0, "", 0.0)], whole=9.5, seed=7))
    2 deployments of 9.5 s each, seed 7: 1 killed, 1 had ended before; nothing was left of any
    all of a killed one was gone after 0.5 s at most
    """
    killed = [one for one in ended if one.during]
    text = f"{len(ended)} deployments of {whole:.1f} s each, seed {seed}: {len(killed)} killed, "
    text += f"{len(ended) - len(killed)} had ended before; nothing was left of any"
    if killed:
        text += f"\nall of a killed one was gone after {max(one.gone for one in killed):.1f} s at most"
    return text


def _said(one: Killed) -> str:
    if not one.during:
        return f"it had ended by itself after {one.after:.1f} s"
    return f"killed after {one.after:.1f} s, at {one.during!r}; all gone {one.gone:.1f} s later"


def _deploy_and_kill(after: float, which: str) -> Killed:
    from nomad_testkit.deployment.lifecycle import forget_dead

    before = MachineState.take()
    process = _deploy()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    by_itself = process.poll() is not None
    _kill(process)
    killed = time.monotonic()
    try:
        said, _ = process.communicate(timeout=GONE_SECONDS)
    except subprocess.TimeoutExpired as error:
        what = "something that it started still holds its output"
        raise TeardownError(f"deployment {which}, killed after {after:.2f} s: {what}") from error
    lines = said.splitlines() or ["its start"]

    def probe() -> Ok[None] | Pending:
        forget_dead(lambda line: None)  # as the next run of pytest does
        left = MachineState.take().left_since(before)
        return Pending(f"{left}") if left else Ok(None)

    try:
        wait_until("nothing to be left", probe, deadline=Deadline.after(GONE_SECONDS))
    except WaitTimeout as error:
        raise TeardownError(f"deployment {which}, killed after {after:.2f} s at {lines[-1]!r}: {error}") from error
    return Killed(after, "" if by_itself else lines[-1], time.monotonic() - killed)


def _deploy() -> subprocess.Popen[str]:
    # Settings of the user's own could make it another deployment.
    environment = {name: value for name, value in os.environ.items() if not _sets(name)}
    return subprocess.Popen(
        [sys.executable, "-c", _ONE_SERVER],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _sets(name: str, kept: tuple[str, ...] = ("STATE", "CACHE")) -> bool:
    return name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX) not in kept


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
