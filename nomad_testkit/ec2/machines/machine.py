"""One instance's machine: its disk, its network namespace, its boot by systemd-nspawn, and its end."""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nomad_testkit.ec2.machines.cgroups import CgroupTree
from nomad_testkit.ec2.machines.image_root import ImageRoot
from nomad_testkit.ec2.machines.isolation import IDS, IdPool, Isolation, mount_mapped, user_namespace
from nomad_testkit.ec2.machines.layers import inject
from nomad_testkit.ec2.machines.spec import MachineEvents, MachineSpec
from nomad_testkit.ec2.vpc.network import HostLink
from nomad_testkit.errors import MachineError, TestkitError
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

log = logging.getLogger(__name__)

SHUTDOWN_GRACE = 20.0
"""Seconds that a host's own shutdown may take before its power is cut."""
START_GRACE = 60.0
"""Seconds until a host's init has to have started."""
REACHABLE_GRACE = 180.0
"""Seconds after which a host whose sshd never answered fails its status checks."""
_CONSOLE_BYTES = 64 * 1024  # what GetConsoleOutput returns on AWS
_REBOOT = 133  # systemd-nspawn's exit status with --keep-unit when the host asks for a reboot
_POWER_OFF = signal.SIGRTMIN + 4  # systemd(1): starts poweroff.target
_REBOOT_SIGNAL = signal.SIGRTMIN + 5


class Wish(enum.Enum):
    """What the API last asked of a machine."""

    RUN = "run"
    STOP = "stop"
    TERMINATE = "terminate"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True)
class Cloud:
    """What all machines of a cloud share."""

    folder: Path
    """Where disks and consoles lie; goes away with the cloud."""
    cgroups: CgroupTree
    events: MachineEvents
    ca_pem: str
    search_domain: str
    ids: IdPool
    isolation: Isolation = Isolation.FULL


class Machine:
    """One machine; each of its lives, from launch or start to its end, is one thread."""

    def __init__(self, spec: MachineSpec, layers: tuple[Path, ...], cloud: Cloud) -> None:
        self.spec = spec
        self._layers = layers
        self._cloud = cloud
        self._folder = cloud.folder / spec.instance_id
        self._link = HostLink(spec.private_ip, spec.subnet_cidr, spec.mac)
        self._lock = threading.Lock()
        self._copying = threading.Lock()
        self._wish = Wish.RUN
        self._forced = False
        self._leader: int | None = None
        self._life: threading.Thread | None = None
        self._resting = False
        """Whether it is stopped, its disk kept."""
        self.base = 0
        """The first of the ids that it has on this machine; 0 where those are the machine's own."""

    @property
    def disk(self) -> Path:
        """The instance's own disk: what differs from its image."""
        return self._folder / "disk" / "upper"

    @property
    def root(self) -> Path:
        """The whole root file system."""
        return self._folder / "root"

    @property
    def certificate(self) -> str:
        """The cloud's certificate, which the host trusts."""
        return self._cloud.ca_pem

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep the disk as it is meanwhile, all of it written.

        A host that runs could put a link in the place of a folder while this machine copies it. One that is down stays
        so, or stands still as soon as it boots.
        """
        with self._copying, self._cloud.cgroups.frozen(self.spec.instance_id):
            _run("sync", "-f", str(self.root), check=False)
            yield

    def console(self) -> str:
        """Give the last 64 KiB that the host wrote to its console."""
        with contextlib.suppress(FileNotFoundError), (self._folder / "console.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _CONSOLE_BYTES))
            return file.read().decode(errors="replace").replace("\r\n", "\n")
        return ""

    def start(self) -> None:
        """Begin a life of this machine; returns at once."""
        with self._lock:
            self._wish, self._forced, self._resting = Wish.RUN, False, False
            self._begin(self._live)

    def end(self, wish: Wish, *, force: bool) -> None:
        """Ask this machine to stop, terminate or reboot; returns at once."""
        with self._lock:
            self._wish = wish
            self._forced = self._forced or force
            if not self._resting:
                self._signal()
            elif wish is Wish.TERMINATE:
                self._resting = False
                self._begin(lambda: self._bury(None))

    def _begin(self, part: Callable[[], None]) -> None:
        """Run a part of this machine's life in a thread, after the one before."""
        before = self._life

        def run() -> None:
            if before is not None:
                before.join()
            part()

        self._life = threading.Thread(target=run, name=f"machine {self.spec.instance_id}", daemon=True)
        self._life.start()

    def _signal(self) -> None:
        if self._leader is None or self._wish is Wish.RUN:
            return
        number = _REBOOT_SIGNAL if self._wish is Wish.REBOOT else _POWER_OFF
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, signal.SIGKILL if self._forced else number)
        if not self._forced:
            threading.Thread(target=self._cut_power, args=(self._leader,), daemon=True).start()

    def _cut_power(self, leader: int) -> None:
        """End a host whose own shutdown takes too long."""
        try:
            ended = os.pidfd_open(leader)
        except ProcessLookupError:
            return
        with contextlib.closing(os.fdopen(ended)):
            import select

            if not select.select([ended], [], [], SHUTDOWN_GRACE)[0]:
                signal.pidfd_send_signal(ended, signal.SIGKILL)

    def _live(self) -> None:
        try:
            self._prepare()
            reason = self._boot_until_end()
        except (TestkitError, OSError) as error:
            log.exception("%s failed", self.spec.instance_id)
            with self._lock:
                self._wish = Wish.TERMINATE
            reason = f"{error}"
        with self._lock:
            # Decided once: a wish that comes later finds a machine that rests, or one that is being buried.
            self._resting = self._wish is not Wish.TERMINATE
        if self._resting:
            self._cloud.cgroups.remove(self.spec.instance_id)
            self._cloud.events.stopped(self.spec.instance_id, reason)
        else:
            self._bury(reason)

    def _prepare(self) -> None:
        """Make what a host needs, unless an earlier life of this machine did."""
        if self._folder.exists():
            return
        for name in ("disk", "root"):
            (self._folder / name).mkdir(parents=True)
        size = f"size={self.spec.root_volume_gib}G,mode=755"
        _run("mount", "-t", "tmpfs", "-o", size, "disk", str(self._folder / "disk"))
        for name in ("upper", "work"):
            (self._folder / "disk" / name).mkdir()
        # Relative names keep the option string short and free of characters that overlayfs would have to have escaped.
        lower = [f"layer{number}" for number in range(len(self._layers))]
        # metacopy: a hard link or chmod copies up a file's inode only. Nomad's exec driver links /usr into each task's
        # root, which would otherwise bring the whole image into memory.
        # Not nodev, though devices are denied: the host's root could not mount anything of it again with other options,
        # as runc does with Nomad's binary for each exec task, which it would otherwise copy into the task's memory.
        options = f"metacopy=on,lowerdir={':'.join(lower)},upperdir=disk/upper,workdir=disk/work"
        with self._mounted_layers(lower):
            _run("mount", "-t", "overlay", "-o", options, self.spec.instance_id, "root", cwd=self._folder)
        root = ImageRoot(self.root, owner=self.base)
        inject(root, self.spec.hostname, certificate=self._cloud.ca_pem, search_domain=self._cloud.search_domain)

    @contextlib.contextmanager
    def _mounted_layers(self, names: list[str]) -> Iterator[None]:
        """Show the image's layers under these names until the root that is made of them is mounted."""
        if self._cloud.isolation is not Isolation.FULL:
            for name, layer in zip(names, self._layers, strict=True):
                (self._folder / name).symlink_to(layer)
            yield
            return
        self.base = self._cloud.ids.take()
        os.chown(self.disk, self.base, self.base)
        mounted = []
        try:
            with user_namespace(self.base) as namespace:
                for name, layer in zip(names, self._layers, strict=True):
                    (self._folder / name).mkdir()
                    mount_mapped(layer, self._folder / name, namespace)
                    mounted.append(name)
            yield
        finally:
            for name in mounted:
                _run("umount", "--lazy", name, cwd=self._folder, check=False)

    def _boot_until_end(self) -> str | None:
        """Boot the host, again after each reboot, until it ends; returns why, where nobody asked for it."""
        while True:
            reached = threading.Event()
            status = self._boot(reached)
            with self._lock:
                self._leader = None
                wish = self._wish
                if wish is Wish.REBOOT or (wish is Wish.RUN and status == _REBOOT):
                    self._wish, self._forced = Wish.RUN, False
                    continue
            if wish is not Wish.RUN:
                return None
            if reached.is_set() or status == 0:
                with self._lock:
                    self._wish = Wish.STOP
                return "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
            raise MachineError(
                f"the host ended with status {status} before it was reachable; "
                f"its console ends with:\n{self._console_tail()}"
            )

    def _boot(self, reached: threading.Event) -> int:
        with (self._folder / "console.log").open("ab") as console:
            process, leader = self._spawn_until_init(console)
            if leader is not None:
                with self._lock:
                    self._leader = leader
                    self._signal()  # a wish may have come while it booted
                self._cloud.events.running(self.spec.instance_id)
                threading.Thread(target=self._watch_ssh, args=(process, reached), daemon=True).start()
            return process.wait()

    def _spawn_until_init(self, console: IO[bytes]) -> tuple[subprocess.Popen[bytes], int | None]:
        notify_path = self._folder / "notify"
        notify_path.unlink(missing_ok=True)
        # Closed as soon as init has started: systemd-nspawn goes on telling, and would block once nobody reads it.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(notify_path))
            process = self._spawn(console, notify_path)
            try:
                self._give_network(process)
                return process, self._await_init(process, notify)
            except TestkitError:
                process.kill()
                raise

    def _spawn(self, console: IO[bytes], notify_path: Path) -> subprocess.Popen[bytes]:
        isolation = self._cloud.isolation
        with self._copying:
            entries = self._cloud.cgroups.add(
                self.spec.instance_id, owner=self.base, devices=isolation is Isolation.NONE
            )
        command = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--boot",
            f"--directory={self.root}",
            f"--machine={self.spec.instance_id}",
            f"--hostname={self.spec.hostname.split('.')[0]}",
            # One that belongs to the user namespace, else the host's root may not use a port below 1024 in it.
            "--private-network",
            "--console=read-only",  # a terminal, which `pipe` is not: without one init writes nothing to its console
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            *([f"--private-users={self.base}:{IDS}", "--private-users-ownership=off"] if self.base else []),
            # Else those of every container: none to set the clock, load modules or reach hardware.
            *(["--capability=all"] if isolation is Isolation.NONE else []),
            # As systemd has it on a host of its own (HIGH_RLIMIT_NOFILE); else this machine's own limit is the highest.
            "--rlimit=RLIMIT_NOFILE=1024:524288",
            # The host's root could go beyond any limit on EC2; here its programs can, where their units ask for it.
            "--rlimit=RLIMIT_MEMLOCK=8388608:infinity",
            # What a host on EC2 may call too: runc gives each task a session keyring, Nomad sandboxes its downloads.
            "--system-call-filter=@keyring landlock_add_rule landlock_create_ruleset landlock_restrict_self",
        ]
        # The shell enters the host's cgroups before it becomes nspawn, so that all of the host is in them.
        enter = "".join(f'echo $$ > "{entry}" && ' for entry in entries)
        return subprocess.Popen(
            ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={
                "PATH": os.environ["PATH"],
                "NOTIFY_SOCKET": str(notify_path),
                # A host sets the kernel parameters of its own network namespace; the others are the machine's.
                "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
            },
        )

    def _give_network(self, process: subprocess.Popen[bytes]) -> None:
        """Link the network namespace that systemd-nspawn has made to the cloud, before the host's init looks at it."""
        own = Path("/proc/self/ns/net").readlink()

        def probe() -> Ok[int | None] | Pending:
            if process.poll() is not None:
                return Ok(None)
            for pid in self._cloud.cgroups.pids(self.spec.instance_id):
                with contextlib.suppress(OSError):  # one that has ended
                    if Path(f"/proc/{pid}/ns/net").readlink() != own:
                        return Ok(pid)
            return Pending("systemd-nspawn has made none")

        first = wait_until(
            "the host's network namespace",
            probe,
            deadline=Deadline.after(START_GRACE),
            where=self.spec.instance_id,
            interval=0.005,
        )
        if first is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGSTOP)
            try:
                self._link.attach(f"/proc/{first}/ns/net")
            finally:
                os.kill(first, signal.SIGCONT)

    def _await_init(self, process: subprocess.Popen[bytes], notify: socket.socket) -> int | None:
        """Wait until the host's init has started; returns its pid, or None when systemd-nspawn ended before."""
        notify.settimeout(0.05)
        facts: dict[str, str] = {}

        def probe() -> Ok[int | None] | Pending:
            if process.poll() is not None:
                return Ok(None)
            with contextlib.suppress(TimeoutError):
                for line in notify.recv(8192).decode().splitlines():
                    name, _, value = line.partition("=")
                    facts[name] = value
            if "READY" in facts and "X_NSPAWN_LEADER_PID" in facts:
                return Ok(int(facts["X_NSPAWN_LEADER_PID"]))
            return Pending(f"systemd-nspawn said {', '.join(facts) or 'nothing'}")

        return wait_until(
            "the host's init to start",
            probe,
            deadline=Deadline.after(START_GRACE),
            where=self.spec.instance_id,
            interval=0,
        )

    def _watch_ssh(self, process: subprocess.Popen[bytes], reached: threading.Event) -> None:
        """Tell the status checks when the host's sshd answers, or that it did not for too long."""

        def probe() -> Ok[None] | Pending | Broken:
            if process.poll() is not None:
                return Broken("the host has ended")
            try:
                with socket.create_connection((self.spec.private_ip, 22), timeout=2) as connection:
                    greeting = connection.recv(4)
            except OSError as error:
                return Pending(str(error))
            return Ok(None) if greeting == b"SSH-" else Pending(f"it greets with {greeting!r}")

        try:
            wait_until("sshd to answer", probe, deadline=Deadline.after(REACHABLE_GRACE), interval=0.1)
        except TestkitError as error:
            log.info("%s: %s", self.spec.instance_id, error)
            if process.poll() is None:
                self._cloud.events.reachable(self.spec.instance_id, False)
            return
        reached.set()
        self._cloud.events.reachable(self.spec.instance_id, True)

    def _console_tail(self) -> str:
        return "\n".join(self.console().splitlines()[-20:]) or "(nothing)"

    def _bury(self, reason: str | None) -> None:
        """Remove everything of this machine but its console, which AWS keeps for a while too."""
        for name in ("root", "disk"):
            if os.path.ismount(self._folder / name):
                _run("umount", "--lazy", str(self._folder / name), check=False)
        self._link.detach()
        self._cloud.cgroups.remove(self.spec.instance_id)
        if self.base:
            self._cloud.ids.give_back(self.base)
        self._cloud.events.terminated(self.spec.instance_id, reason)


def _run(*command: str, cwd: Path | None = None, check: bool = True) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    if check and done.returncode:
        raise MachineError(f"`{' '.join(command)}` ended with status {done.returncode}: {done.stderr.strip()}")
