"""SSH to a host: commands and files over paramiko, one connection a host, usable from several threads."""

from __future__ import annotations

import io
import logging
import select
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from nomad_testkit.errors import BrokenError, CommandFailed, HostError, WaitTimeout
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    import paramiko

KEEPALIVE = 15
"""Seconds between keepalive messages, so that a host that vanished is noticed while a command runs."""
ATTEMPT_TIMEOUT = 5.0
"""Seconds that each part of one attempt to connect may take: TCP, banner, authentication."""
COMMAND_TIMEOUT = 60.0
MAX_CHANNELS = 8
"""Commands at once over one connection; sshd refuses more than its MaxSessions, which is 10 by default."""
_CHUNK = 128 * 1024
_LOG_CHANNEL = f"{__name__}.transport"


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command on a host."""

    status: int
    stdout: str
    stderr: str


class SshConnection:
    """One connection to one host, opened by `connect` or the first command.

    It reconnects after a reboot. The host key is accepted at first contact, because the host is new, and pinned once
    authentication has succeeded: before that, cloud-init may still replace it.

    >>> ssh = SshConnection("127.31.16.5", "admin", Path("id_ed25519"))
    >>> ssh.run("hostname").stdout  # doctest: +SKIP
    'ip-172-31-16-5\\n'
    """

    def __init__(self, address: str, user: str, key_path: Path, *, port: int = 22) -> None:
        self.address, self.user, self.key_path, self.port = address, user, key_path, port
        self._connecting = threading.Lock()
        # Held only briefly, so that closing never waits for a connection attempt.
        self._lock = threading.Lock()
        self._closes = 0
        self._channels = threading.BoundedSemaphore(MAX_CHANNELS)
        self._client: paramiko.SSHClient | None = None
        self._host_key: paramiko.PKey | None = None
        self.refused = ""
        """sshd's last refusal of the login; empty after a success, or if sshd does not answer."""

    @classmethod
    def connect(cls, address: str, user: str, key_path: Path, *, deadline: Deadline, port: int = 22) -> SshConnection:
        """Connect, retrying until `deadline`: a booting host refuses at first and gets its keys late.

        Raise HostError, with the address and what was last seen, if it fails; at once if the file is not a private key.
        """
        connection = cls(address, user, key_path, port=port)
        connection.ensure(deadline)
        return connection

    def ensure(self, deadline: Deadline, *, interval: float = 0.2) -> None:
        """Ensure a live connection. Raise HostError as `connect`, and if the host key has changed.

        `interval` is in seconds; each attempt takes processor time from a booting host.
        """
        closes = self._closes

        def attempt() -> Ok[None] | Pending | Broken:
            if self._closes == closes:
                answer = self._attempt(key, deadline)
                if not isinstance(answer, Ok):
                    return answer
                if self._keep(answer.value, closes):
                    return Ok(None)
            return Broken("the connection was closed meanwhile")

        with self._connecting:
            if self._alive():
                return
            self._drop()
            key = self._load_key()
            what, where = f"SSH as {self.user}", f"{self.address}:{self.port}"
            try:
                wait_until(what, attempt, deadline=deadline, where=where, interval=interval)
            except (WaitTimeout, BrokenError) as error:
                raise HostError(str(error)) from error

    def run(
        self,
        command: str,
        *,
        timeout: float = COMMAND_TIMEOUT,
        check: bool = True,
        sudo: bool = False,
        stdin: IO[bytes] | None = None,
    ) -> CommandResult:
        """Run a command line in the user's shell on the host; with `sudo`, as root.

        `timeout` is in seconds. Raise CommandFailed if the status is not 0 and `check` is true, and HostError if the
        connection is lost or the command does not end in time.

        >>> ssh.run("id -u", sudo=True).stdout  # doctest: +SKIP
        '0\\n'
        """
        status, stdout, stderr = self._execute(command, timeout=timeout, sudo=sudo, stdin=stdin)
        result = CommandResult(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
        if check and status != 0:
            raise CommandFailed(self.address, command, status, result.stdout, result.stderr)
        return result

    def follow(self, program: str, *, sudo: bool = False, timeout: float = COMMAND_TIMEOUT) -> Iterator[str]:
        """Run one program with its arguments, possibly endless, and yield each line as it is printed.

        The program is ended on the host when the caller stops reading or this process dies. `timeout` (seconds) applies
        to the connection. Raise HostError if that is lost, and CommandFailed if the program's status is not 0.

        >>> for line in ssh.follow("journalctl -u nomad -f", sudo=True):  # doctest: +SKIP
        ...     print(line)
        """
        import paramiko

        # sshd does not end a program when its channel closes, but closes the program's standard input.
        script = (
            f"exec 3<&0; {program} </dev/null & child=$!; {{ cat; kill $child; }} <&3 >/dev/null 2>&1 & watcher=$!;"
            " wait $child; status=$?; kill $watcher; exit $status"
        )
        line = f"{'sudo -n -- ' if sudo and self.user != 'root' else ''}sh -c {shlex.quote(script)}"
        with self._channels:
            channel = self._open_channel(Deadline.after(timeout))
            try:
                channel.exec_command(line)
                with channel.makefile("rb") as lines:
                    for text in lines:
                        yield text.decode(errors="replace").rstrip("\n")
                if (status := channel.recv_exit_status()) != 0:
                    said = channel.makefile_stderr("r").read().decode(errors="replace")
                    raise CommandFailed(self.address, program, status, "", said)
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise HostError(f"{self.address}: connection lost during `{program}`: {error}") from error
            finally:
                channel.close()

    def put(
        self,
        source: bytes | str | Path,
        remote: str,
        *,
        mode: int = 0o644,
        sudo: bool = False,
        timeout: float = 300.0,
    ) -> None:
        """Write a file on the host, from bytes, from text, or from the local file that a Path names.

        The file appears complete or not at all, with `mode` from the start; with `sudo` it belongs to root. SFTP cannot
        write as root, so the data goes through a command's standard input. Raise HostError if the write fails.
        """
        target, part = shlex.quote(remote), shlex.quote(f"{remote}.part")
        if isinstance(source, Path):
            data: IO[bytes] = source.open("rb")
            size = source.stat().st_size
        else:
            content = source.encode() if isinstance(source, str) else source
            data, size = io.BytesIO(content), len(content)
        # A lost connection looks like the end of the data to cat, so compare the size before the rename.
        command = (
            f"umask 077 && cat > {part} && test $(stat -c %s {part}) = {size}"
            f" && chmod {mode:o} {part} && mv -f {part} {target}"
        )
        with data:
            self.run(command, sudo=sudo, stdin=data, timeout=timeout)

    def read(self, remote: str, *, sudo: bool = False) -> str:
        """Return a text file of the host. Raise CommandFailed if it does not exist."""
        return self.run(f"cat -- {shlex.quote(remote)}", sudo=sudo).stdout

    def close(self) -> None:
        """Close the connection and stop connecting; the next command opens it again."""
        with self._lock:
            self._closes += 1
        self._drop()

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the connection

    def _alive(self) -> bool:
        transport = self._client.get_transport() if self._client else None
        return transport is not None and transport.is_active()

    def _keep(self, client: paramiko.SSHClient, closes: int) -> bool:
        """Adopt a new client, unless the connection was closed meanwhile."""
        with self._lock:
            if wanted := self._closes == closes:
                self._client = client
        if not wanted:
            client.close()
        return wanted

    def _drop(self, only: paramiko.SSHClient | None = None) -> None:
        """Close the client; with `only`, close it just if it is still that one."""
        with self._lock:
            client = self._client
            if client is None or only not in (None, client):
                return
            self._client = None
        client.close()

    def _load_key(self) -> paramiko.PKey:
        import paramiko

        try:
            return paramiko.PKey.from_path(self.key_path)
        except Exception as error:  # an OSError, an SSHException, or cryptography's own
            raise HostError(f"cannot use {self.key_path} as SSH key for {self.address}: {error}") from error

    def _attempt(self, key: paramiko.PKey, deadline: Deadline) -> Ok[paramiko.SSHClient] | Pending | Broken:
        import paramiko

        client = paramiko.SSHClient()
        # Otherwise paramiko logs a traceback for every refused attempt.
        client.set_log_channel(_LOG_CHANNEL)
        logging.getLogger(_LOG_CHANNEL).setLevel(logging.CRITICAL)
        client.set_missing_host_key_policy(_pinned(self._host_key))
        self.refused = ""
        patience = min(ATTEMPT_TIMEOUT, max(deadline.remaining(), 0.5))
        try:
            client.connect(
                self.address,
                self.port,
                self.user,
                pkey=key,
                timeout=patience,
                banner_timeout=patience,
                auth_timeout=patience,
                channel_timeout=ATTEMPT_TIMEOUT,
                allow_agent=False,
                look_for_keys=False,
            )
            transport = client.get_transport()
            if transport is None:
                raise EOFError("connection lost")
            transport.set_keepalive(KEEPALIVE)
            self._host_key = transport.get_remote_server_key()
        except paramiko.BadHostKeyException as error:
            client.close()
            return Broken(f"the host key is not the one of before: {error}")
        except paramiko.AuthenticationException as error:
            client.close()
            said = f"{self.user} is not let in with {self.key_path}: {error}"
            # A timeout of the authentication is not a refusal.
            self.refused = "" if "timeout" in str(error).lower() else said
            return Pending(said)
        except (paramiko.SSHException, OSError, EOFError) as error:
            client.close()
            return Pending(str(error) or type(error).__name__)
        return Ok(client)

    # -- one command

    def _execute(
        self, command: str, *, timeout: float, sudo: bool, stdin: IO[bytes] | None
    ) -> tuple[int, bytes, bytes]:
        import paramiko

        line = f"sudo -n -- sh -c {shlex.quote(command)}" if sudo and self.user != "root" else command
        deadline = Deadline.after(timeout)
        with self._channels:
            channel = self._open_channel(deadline)
            try:
                channel.settimeout(max(deadline.remaining(), 0.1))
                channel.exec_command(line)
                if stdin is not None:
                    _feed(channel, stdin, deadline)
                channel.shutdown_write()
                stdout, stderr = _collect(channel, deadline)
                if not channel.status_event.wait(deadline.remaining()):
                    raise TimeoutError
                status = channel.exit_status
            except TimeoutError as error:
                raise HostError(f"{self.address}: `{command}` did not end within {timeout:.0f} s") from error
            except (paramiko.SSHException, OSError, EOFError) as error:
                why = str(error) or type(error).__name__
                raise HostError(f"{self.address}: connection lost during `{command}`: {why}") from error
            finally:
                channel.close()
        if status == -1 and not self._alive():
            raise HostError(f"{self.address}: connection lost during `{command}`")
        return status, stdout, stderr

    def _open_channel(self, deadline: Deadline) -> paramiko.Channel:
        """Open a channel, reconnecting if the connection is dead: nothing has been sent over it yet."""
        import paramiko

        def attempt() -> Ok[paramiko.Channel] | Pending | Broken:
            self.ensure(deadline)
            client = self._client
            transport = client.get_transport() if client else None
            try:
                if transport is None:
                    raise EOFError("connection lost")
                return Ok(transport.open_session(timeout=ATTEMPT_TIMEOUT))
            except paramiko.ChannelException as error:
                # The host is at its session limit; other threads' sessions continue on this connection.
                return Pending(str(error))
            except (paramiko.SSHException, OSError, EOFError) as error:
                if client is not None:
                    self._drop(client)
                return Pending(str(error) or type(error).__name__)

        try:
            return wait_until("an SSH channel", attempt, deadline=deadline, where=self.address)
        except WaitTimeout as error:
            raise HostError(str(error)) from error


def _pinned(known: paramiko.PKey | None) -> paramiko.MissingHostKeyPolicy:
    """Return a policy that accepts any key if none is `known`, and otherwise only that key."""
    import paramiko

    class Pinned(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            if known is not None and key != known:
                raise paramiko.BadHostKeyException(hostname, key, known)

    return Pinned()


def _feed(channel: paramiko.Channel, data: IO[bytes], deadline: Deadline) -> None:
    """Send all data; if the command ends before reading it, its status says why."""
    while chunk := data.read(_CHUNK):
        channel.settimeout(max(deadline.remaining(), 0.1))
        try:
            channel.sendall(chunk)
        except TimeoutError:
            raise
        except OSError:
            return


def _collect(channel: paramiko.Channel, deadline: Deadline) -> tuple[bytes, bytes]:
    """Read both outputs concurrently, so that neither can fill up and block the command."""
    stdout, stderr = bytearray(), bytearray()
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        ended = channel.eof_received or channel.closed
        while channel.recv_ready():
            stdout += channel.recv(_CHUNK)
        while channel.recv_stderr_ready():
            stderr += channel.recv_stderr(_CHUNK)
        if ended:
            return bytes(stdout), bytes(stderr)
        # paramiko's descriptor becomes readable with data on either output, and at their end.
        if deadline.passed:
            raise TimeoutError
        poll.poll(deadline.remaining() * 1000)
