"""The one process of a cloud outside its namespaces: it starts the cloud, and removes what the kernel does not.

That is little: the cgroups, the folder with the control socket, and the claim to an index.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from nomad_testkit.ec2.control import DESCRIPTION, LOG, SOCKET, CloudConfig
from nomad_testkit.ec2.credentials import SECRET_KEY
from nomad_testkit.ec2.machines.cgroups import CgroupTree
from nomad_testkit.ec2.vpc.callers import CallerFilter
from nomad_testkit.ec2.vpc.network import CloudAddresses, claim, claim_first, join_machine, leave_machine
from nomad_testkit.errors import Ec2Error, TestkitError
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

log = logging.getLogger(__name__)

STATE = Path("/run/nomad-testkit")
"""One folder a cloud, named by its index, as long as the cloud lives."""


def main() -> None:
    """Run a cloud; the configuration comes on standard input, and its folder is written to standard output.

    The argument is the descriptor of a pipe that ends when the cloud's maker does. The cloud goes into the background
    as soon as that folder holds the control socket.
    """
    # What is written onto the hosts' disks is the image's, not its maker's: a user's own umask has no say in it.
    os.umask(0o022)
    config = CloudConfig.from_json(sys.stdin.read())
    remove_dead()
    index, lock = claim_first()
    state_dir = STATE / f"cloud-{index}"
    state_dir.mkdir(mode=0o700, parents=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(str(state_dir / SOCKET))
    control.listen()
    config = replace(config, index=index, state_dir=str(state_dir))
    if _fork_into_background(state_dir):
        print(state_dir, flush=True)
        return
    Warden(config, state_dir, maker=int(sys.argv[1])).run(control)
    lock.close()


def remove_dead() -> None:
    """Remove what clouds left whose wardens were killed: a folder, cgroups, a link."""
    for folder in STATE.glob("cloud-*"):
        index = int(folder.name.removeprefix("cloud-"))
        lock = claim(index)
        if lock is None:
            continue  # it lives
        with lock:
            leave_machine(CloudAddresses(index))
            with contextlib.suppress(TestkitError):
                _cgroups(index).destroy(Deadline.after(5))
            shutil.rmtree(folder, ignore_errors=True)


def _cgroups(index: int) -> CgroupTree:
    return CgroupTree(f"nomad-testkit-{index}")


def _fork_into_background(state_dir: Path) -> bool:
    """Return True in the parent; the child has a session of its own and logs to the cloud's folder."""
    if os.fork():
        return True
    os.setsid()
    output = os.open(state_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    return False


class Warden:
    """Looks after one cloud."""

    def __init__(self, config: CloudConfig, state_dir: Path, *, maker: int) -> None:
        self._config = config
        self._maker = maker
        self._state_dir = state_dir
        self._addresses = CloudAddresses(config.index)
        self._cgroups = _cgroups(config.index)
        self._filter: CallerFilter | None = None

    def run(self, control: socket.socket) -> None:
        """Run the cloud to its end, and clean up."""
        cloud: subprocess.Popen[str] | None = None
        try:
            self._cgroups.create()
            config = replace(self._config, cgroups=self._cgroups.describe())
            cloud = self._start(control)
            control.close()  # so that connections end with the cloud
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: cloud.kill())
            self._describe()
            assert cloud.stdin is not None
            self._join(cloud)
            cloud.stdin.write(config.to_json())
            cloud.stdin.close()
            self._await_end(cloud)
        except (TestkitError, OSError) as error:
            log.error("%s", error)
        finally:
            if cloud is not None:
                cloud.kill()
                cloud.wait()
            leave_machine(self._addresses)
            if self._filter is not None:
                self._filter.close()
            with contextlib.suppress(TestkitError):
                self._cgroups.destroy(Deadline.after(10))
            shutil.rmtree(self._state_dir, ignore_errors=True)
            with contextlib.suppress(OSError):
                STATE.rmdir()

    def _start(self, control: socket.socket) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                # With its warden the cloud dies too: nobody would be left to clean up after it.
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--pid", "--net", "--mount", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "nomad_testkit.ec2.supervisor", str(control.fileno()), str(self._maker)),
            ],
            stdin=subprocess.PIPE,
            pass_fds=(control.fileno(), self._maker),
            text=True,
        )

    def _join(self, cloud: subprocess.Popen[str]) -> None:
        """Link this machine to the cloud's network namespace, which unshare itself is in before it forks."""
        own = Path("/proc/self/ns/net").readlink()

        def probe() -> Ok[None] | Pending | Broken:
            if cloud.poll() is not None:
                return Broken(f"unshare ended with status {cloud.returncode}")
            theirs = Path(f"/proc/{cloud.pid}/ns/net").readlink()
            return Pending("it is in the machine's namespace") if theirs == own else Ok(None)

        wait_until("the cloud's network namespace", probe, deadline=Deadline.after(10), interval=0.005)
        if self._config.users is not None:  # before there is anything to reach
            self._filter = CallerFilter(self._addresses.link, self._config.users)
        join_machine(self._addresses, cloud.pid)

    def _await_end(self, cloud: subprocess.Popen[str]) -> None:
        """Wait for the end of the cloud, which ends with its filter: no other user reaches it in between."""
        ends = [os.pidfd_open(one) for one in (cloud.pid, *([self._filter.pid] if self._filter else ()))]
        try:
            first, _, _ = select.select(ends, [], [])
        finally:
            for one in ends:
                os.close(one)
        if ends[0] not in first:
            log.error("the process that keeps other users away has ended, so the cloud ends")
            cloud.kill()
        cloud.wait()

    def _describe(self) -> None:
        facts = {
            "warden_pid": os.getpid(),
            "region": self._config.region,
            "endpoint_url": self._addresses.endpoint_url,
            "access_key_id": self._config.credentials.access_key_id,
        }
        self._config.credentials.write(self._state_dir / SECRET_KEY)
        path = self._state_dir / DESCRIPTION
        path.write_text(json.dumps(facts))


if __name__ == "__main__":
    try:
        main()
    except Ec2Error as failure:
        sys.exit(str(failure))
