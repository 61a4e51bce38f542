"""SshConnection against a real SSH server in this process, whose commands run in this machine's shell."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nomad_testkit.errors import CommandFailed, HostError
from nomad_testkit.ssh import SshConnection
from nomad_testkit.wait import Deadline, Ok, Pending


def make_key(path: Path) -> paramiko.PKey:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    path.write_bytes(pem)
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pem.decode()))


class Session(paramiko.ServerInterface):
    def __init__(self, server: Server) -> None:
        self.server = server

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.server.tried.set()
        welcome = username == "admin" and key == self.server.accepted
        return paramiko.common.AUTH_SUCCESSFUL if welcome else paramiko.common.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if self.server.refusals:
            self.server.refusals -= 1
            return paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.server.commands.append(command.decode())
        threading.Thread(target=self._execute, args=(channel, command), daemon=True).start()
        return True

    def _execute(self, channel: paramiko.Channel, command: bytes) -> None:
        line = command.decode().removeprefix("sudo -n -- ")
        with subprocess.Popen(
            ["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            self.server.processes.append(process)
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            sources = ((process.stdout, channel.sendall), (process.stderr, channel.sendall_stderr))
            pumps = [threading.Thread(target=_pump, args=pair, daemon=True) for pair in sources]
            for pump in pumps:
                pump.start()
            # As with sshd, the channel ends when the command does, even if there is more to read.
            with contextlib.suppress(BrokenPipeError):
                while data := channel.recv(65536):
                    process.stdin.write(data)
                process.stdin.close()
            for pump in pumps:
                pump.join()
            channel.send_exit_status(process.wait())
        channel.close()


def _pump(source: io.BufferedReader, send: object) -> None:
    assert callable(send)
    while data := source.read1(65536):
        send(data)


class Server:
    """An SSH server on a free port that can be stopped and started again, as a host that reboots."""

    def __init__(self, accepted: paramiko.PKey, host_key: paramiko.PKey) -> None:
        self.accepted: paramiko.PKey | None = accepted
        self.host_key = host_key
        self.commands: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.tried = threading.Event()
        self.refusals = 0
        self.port = 0
        self.start()

    def start(self) -> None:
        self.transports: list[paramiko.Transport] = []
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.set_log_channel("test.server")
            transport.add_server_key(self.host_key)
            self.transports.append(transport)
            try:
                transport.start_server(server=Session(self))
            except (paramiko.SSHException, EOFError, OSError):
                transport.close()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for transport in self.transports:
            transport.close()
        for process in self.processes:
            process.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(make_key(tmp_path / "id"), make_key(tmp_path / "host"))
    yield server
    server.stop()


@pytest.fixture
def ssh(server: Server, tmp_path: Path) -> Iterator[SshConnection]:
    with SshConnection("127.0.0.1", "admin", tmp_path / "id", port=server.port) as connection:
        yield connection


def test_a_command_gives_back_status_and_both_outputs_and_a_failing_one_raises(ssh: SshConnection) -> None:
    result = ssh.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")
    with pytest.raises(CommandFailed, match="status 4: no such thing") as caught:
        ssh.run("echo no such thing >&2; exit 4")
    assert caught.value.status == 4
    with pytest.raises(HostError, match=r"127\.0\.0\.1: `sleep 600` did not end within 0 s"):
        ssh.run("sleep 600", timeout=0.3)


def test_much_output_on_both_sides_does_not_block(ssh: SshConnection) -> None:
    result = ssh.run("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    assert (len(result.stdout), len(result.stderr)) == (3_000_000, 3_000_000)


def test_sudo_runs_the_whole_line_as_root(ssh: SshConnection, server: Server) -> None:
    assert ssh.run("echo 'a b' | cat", sudo=True).stdout == "a b\n"
    assert server.commands[-1].startswith("sudo -n -- sh -c ")


def test_put_writes_bytes_whole_and_with_the_mode_and_read_gives_text_back(ssh: SshConnection, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "a file"
    data = bytes(range(256)) * 4096
    ssh.put(data, str(target), mode=0o640)
    assert (target.read_bytes(), target.stat().st_mode & 0o7777) == (data, 0o640)
    assert not (tmp_path / "a file.part").exists()
    source.write_text("grüße\n")
    ssh.put(source, str(target))
    assert ssh.read(str(target)) == "grüße\n"
    with pytest.raises(CommandFailed, match="missing"):
        ssh.put("x" * 5_000_000, str(tmp_path / "missing" / "file"))


def test_more_threads_than_channels_all_get_their_answer(ssh: SshConnection) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: ssh.run(f"echo {n}").stdout, range(20)))
    assert answers == [f"{n}\n" for n in range(20)]


def test_a_refused_session_costs_no_other_its_connection(ssh: SshConnection, server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ssh.run, f"echo begun > {tmp_path / 'go'}; read line < {tmp_path / 'go'}; echo $line")
        assert (tmp_path / "go").read_text() == "begun\n"
        server.refusals = 1
        assert ssh.run("echo second").stdout == "second\n"
        (tmp_path / "go").write_text("first\n")
        assert waiting.result(timeout=30).stdout == "first\n"
    assert server.refusals == 0
    assert len(server.transports) == 1


def test_it_comes_back_after_a_reboot(ssh: SshConnection, server: Server) -> None:
    ssh.run("true")
    server.stop()
    server.start()
    assert ssh.run("echo back", timeout=20).stdout == "back\n"


def test_another_host_key_than_before_is_refused(ssh: SshConnection, server: Server, tmp_path: Path) -> None:
    ssh.run("true")
    server.stop()
    server.host_key = make_key(tmp_path / "other")
    server.start()
    with pytest.raises(HostError, match="the host key is not the one of before"):
        ssh.run("true", timeout=20)


def connect(server: Server, key: Path, user: str = "admin", *, within: float = 20) -> SshConnection:
    return SshConnection.connect("127.0.0.1", user, key, port=server.port, deadline=Deadline.after(within))


def test_a_key_that_is_let_in_late_is_waited_for(server: Server, tmp_path: Path) -> None:
    late, server.accepted = server.accepted, None

    def install_key() -> None:
        assert server.tried.wait(20)
        server.accepted = late

    threading.Thread(target=install_key, daemon=True).start()
    with connect(server, tmp_path / "id") as connection:
        assert connection.run("echo in").stdout == "in\n"


def test_who_is_not_let_in_and_what_is_not_listening_or_no_key_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    with pytest.raises(HostError, match=r"cannot use .*nonsense as SSH key"):
        connect(server, tmp_path / "nonsense", within=60)
    assert not server.tried.is_set()
    with pytest.raises(HostError, match="root is not let in"):
        connect(server, tmp_path / "id", "root", within=0.5)
    server.stop()
    with pytest.raises(HostError, match=rf"SSH as admin on 127\.0\.0\.1:{server.port}.*Unable to connect"):
        connect(server, tmp_path / "id", within=0.3)
    server.start()


@pytest.mark.parametrize("connects", [False, True])
def test_closing_gives_up_a_wait_and_waits_for_nobody_who_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connects: bool
) -> None:
    make_key(tmp_path / "id")
    connection = SshConnection("127.0.0.1", "admin", tmp_path / "id")
    tried, closed, client, ended = threading.Event(), threading.Event(), paramiko.SSHClient(), threading.Event()
    monkeypatch.setattr(client, "close", ended.set)

    def attempt(*_: object) -> Ok[paramiko.SSHClient] | Pending:
        tried.set()
        assert not connects or closed.wait(20)
        return Ok(client) if connects else Pending("refused")

    monkeypatch.setattr(connection, "_attempt", attempt)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connection.ensure, Deadline.after(3600))
        assert tried.wait(20)
        connection.close()
        closed.set()
        with pytest.raises(HostError, match="the connection was closed meanwhile"):
            waiting.result(20)
    assert ended.is_set() is connects
