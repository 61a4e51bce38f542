"""The agents' units: written, started, and explained where they do not start."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

from host_commons import Clock, HostFault, Waiting, log, script_name, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

UNIT_DIR = Path("/etc/systemd/system")
ENVIRONMENT_DIR = Path("/etc/default")
JOURNAL_SOCKET = "/run/systemd/journal/socket"
TAIL_LINES = 20
START_SECONDS = 330.0  # a little more than the units' own time-out, so that systemd is the one to end a start


class Host:
    """What the scripts change on the host; tests replace it."""

    unit_dir = UNIT_DIR
    environment_dir = ENVIRONMENT_DIR

    def __init__(self) -> None:
        self.clock = Clock()

    def require_root(self) -> None:
        """Raise HostFault for anyone else."""
        if os.geteuid() != 0:
            raise HostFault(f"must be run as root, and runs as user {os.geteuid()}: use sudo")

    def run(self, command: Sequence[str], *, seconds: float = 60.0) -> tuple[int, str]:
        """Run a program; give its status and output. Raises HostFault where it cannot, or not in time."""
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HostFault(f"`{' '.join(command)}` has not ended after {seconds:.0f} s") from None
        except OSError as error:
            raise HostFault(f"`{command[0]}` cannot be run: {error.strerror}") from None
        return done.returncode, done.stdout.decode("utf-8", "replace").strip()

    def owner(self, folder: Path) -> str:
        """Name the owner of a folder."""
        return folder.owner()

    def ids(self, user: str) -> tuple[int, int]:
        """Give the user's and its group's id."""
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise HostFault(f"there is no user {user} on this host: create it, or give another --user") from None
        return entry.pw_uid, entry.pw_gid

    def chown(self, path: Path, user: str) -> None:
        """Give a file to a user and its group."""
        os.chown(path, *self.ids(user))

    def journal(self, unit: str, text: str) -> None:
        """Put an error into the journal so that `journalctl -u UNIT` shows it.

        https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ ; by OBJECT_SYSTEMD_UNIT= root writes about a unit.
        """
        about = f"PRIORITY=3\nSYSLOG_IDENTIFIER={script_name()}\nOBJECT_SYSTEMD_UNIT={unit}\n"
        # A host without the journal still has the message on stderr.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            for line in text.splitlines():
                journal.sendto(f"MESSAGE={line}\n{about}".encode(), JOURNAL_SOCKET)


class AgentPaths:
    """Where an agent's parts are on this host, and who owns them."""

    def __init__(self, host: Host, *, script: str, agent: str, options: argparse.Namespace) -> None:
        beside = Path(script).resolve().parent
        bin_dir: Path = options.bin_dir or beside
        self.config_dir: Path = options.config_dir or beside.parent / "config"
        self.data_dir: Path = options.data_dir or beside.parent / "data"
        self.binary = bin_dir / agent
        if not os.access(self.binary, os.X_OK):
            raise HostFault(f"there is no program {self.binary}: run install-{agent}, or give --bin-dir")
        if not self.config_dir.is_dir():
            raise HostFault(f"there is no folder {self.config_dir}: run install-{agent}, or give --config-dir")
        self.user: str = options.user or host.owner(self.config_dir)
        host.ids(self.user)
        if not self.data_dir.is_dir():
            self.data_dir.mkdir(mode=0o750, parents=True)
            host.chown(self.data_dir, self.user)


def write_file(host: Host, path: Path, text: str, *, mode: int, user: str = "root") -> bool:
    """Write a whole file, never readable by others than `mode` says; tell whether its content changed."""
    try:
        changed = path.read_text(encoding="utf-8") != text
    except (FileNotFoundError, UnicodeDecodeError):
        changed = True
    fresh = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    fresh.touch(mode=0o600)
    fresh.write_text(text, encoding="utf-8")
    host.chown(fresh, user)
    fresh.chmod(mode)
    fresh.replace(path)
    return changed


def word(value: str | Path) -> str:
    """Quote one word of a command line in a unit (systemd.service(5))."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if any(sign in text for sign in " '\"\\;") else text


def render_unit(sections: Sequence[tuple[str, Sequence[tuple[str, str | None]]]]) -> str:
    """Write a unit file, leaving out what has no value."""
    parts = []
    for name, lines in sections:
        parts.append(f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in lines if value is not None))
    return "\n".join(parts)


def render_environment(variables: Sequence[tuple[str, str]]) -> str:
    """Write a file for EnvironmentFile= (systemd.exec(5)), whose quoting is a shell's."""
    lines = []
    for key, value in variables:
        for sign in '\\"$`':
            value = value.replace(sign, f"\\{sign}")
        lines.append(f'{key}="{value}"\n')
    return "".join(lines)


def write_unit(host: Host, unit: str, text: str, variables: Sequence[tuple[str, str]]) -> bool:
    """Write a unit, and its environment into a file that only root can read; tell of a change."""
    path = environment_file(host, unit)
    changed = False
    if variables:
        host.environment_dir.mkdir(parents=True, exist_ok=True)
        changed = write_file(host, path, render_environment(variables), mode=0o600)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return write_file(host, host.unit_dir / unit, text, mode=0o644) or changed


def environment_file(host: Host, unit: str) -> Path:
    """Name the file with a unit's environment."""
    return host.environment_dir / f"run-{unit.rpartition('.')[0]}"


def validate(host: Host, place: AgentPaths, command: Sequence[str], unit: str) -> None:
    """Have the agent check its configuration; raises HostFault with the agent's own words."""
    # The folder for data is on the agent's command line, which validation does not take: it comes by a file.
    extra = place.data_dir.with_name(f"{place.data_dir.name}.validate.json")
    write_file(host, extra, json.dumps({"data_dir": str(place.data_dir)}), mode=0o600)
    try:
        status, said = host.run([str(place.binary), *command, str(place.config_dir), str(extra)])
    finally:
        extra.unlink()
    if status != 0:
        raise HostFault(
            f"{unit} is not started: `{place.binary.name} {' '.join(command)}` refuses the configuration in "
            f"{place.config_dir}:\n{said}"
        )


def start_unit(host: Host, unit: str, *, changed: bool) -> None:
    """Enable a unit and start it, or restart it where its files changed; a HostFault has its log's end."""
    state = unit_state(host, unit)
    if state == "failed":
        host.run(["systemctl", "reset-failed", unit])
    _systemctl(host, "enable", unit)  # reads the unit files again, too
    if state == "active" and not changed:
        log(f"{unit} runs already, with this configuration")
        return
    verb = "restart" if state in ("active", "activating", "reloading") and changed else "start"
    try:
        status, said = host.run(["systemctl", verb, unit], seconds=START_SECONDS)
    except HostFault as fault:
        status, said = 1, str(fault)
    if status != 0:
        raise HostFault(f"{unit} does not start: {said}\n{tail(host, unit)}")


def unit_state(host: Host, unit: str) -> str:
    """Give systemd's ActiveState; a unit that waits to be started again counts as failed."""
    _, said = host.run(["systemctl", "show", "--property=ActiveState,SubState", unit])
    values = dict(line.partition("=")[::2] for line in said.splitlines())
    return "failed" if values.get("SubState") == "auto-restart" else values.get("ActiveState", "unknown")


def wait_for_agent(host: Host, unit: str, what: str, probe: Callable[[], None], seconds: float) -> None:
    """Wait until `probe` is content, or the unit has ended; a HostFault has its last log lines."""
    next_look = host.clock.now() + 1.0

    def watched() -> None:
        nonlocal next_look
        try:
            probe()
        except Waiting:
            if host.clock.now() >= next_look:
                next_look = host.clock.now() + 1.0
                state = unit_state(host, unit)
                if state in ("failed", "inactive"):
                    raise HostFault(f"{unit} has {'failed' if state == 'failed' else 'ended'}") from None
            raise

    try:
        wait_until(what, watched, seconds, clock=host.clock)
    except HostFault as fault:
        raise HostFault(f"{fault}\n{tail(host, unit)}") from None


def tail(host: Host, unit: str) -> str:
    """Give the last lines of a unit's journal."""
    try:
        _, said = host.run(["journalctl", "--no-pager", "-o", "cat", "-n", str(TAIL_LINES), "-u", unit])
    except HostFault as fault:
        said = str(fault)
    return f"Last lines of `journalctl -u {unit}`:\n{said or '(nothing)'}"


def run_script(unit: str, host: Host, work: Callable[[], None]) -> int:
    """Do a script's work and give its exit status: 1 for a fault, which its log and the journal tell."""
    try:
        host.require_root()
        work()
    except HostFault as fault:
        log(f"error: {fault}")
        host.journal(unit, str(fault))
        return 1
    except OSError as error:
        reason = f"{error.filename or 'this host'}: {error.strerror or error}"
        log(f"error: {reason}")
        host.journal(unit, reason)
        return 1
    return 0


def _systemctl(host: Host, *arguments: str) -> None:
    status, said = host.run(["systemctl", *arguments])
    if status != 0:
        raise HostFault(f"`systemctl {' '.join(arguments)}` fails: {said}")


def python() -> str:
    """Give the interpreter's path, to call scripts from units by the interpreter that runs this one."""
    return sys.executable or "/usr/bin/python3"
