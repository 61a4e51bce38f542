from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from nomad_testkit.ec2.control import SOCKET, CloudConfig, Connection, ImageOnDisk
from nomad_testkit.ec2.credentials import Credentials
from nomad_testkit.ec2.supervisor import Supervisor
from nomad_testkit.errors import Ec2Error


def serve(folder: Path, answer: str | None) -> threading.Thread:
    """Answer one request with a line, or hang up."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / SOCKET))
    listener.listen()

    def run() -> None:
        connection, _ = listener.accept()
        with listener, connection, connection.makefile("rw") as lines:
            lines.readline()
            if answer is not None:
                lines.write(answer + "\n")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_config_survives_json() -> None:
    image = ImageOnDisk("ami-1", "name", ("/a", "/b"), "text", "x86_64")
    config = CloudConfig("/run/x", "us-east-1", 3, {"/sys/fs/cgroup/x": False}, (image,), Credentials("AKIA", "hidden"))
    assert CloudConfig.from_json(config.to_json()) == config
    assert "hidden" not in repr(config)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Ec2Error, match=f"no embedded cloud answers at {tmp_path}"):
        Connection(tmp_path, timeout=1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "ended before it answered `keep`"), (json.dumps({"error": "no room"}), "refused `keep`: no room")],
)
def test_failures_say_what_was_asked(answer: str | None, message: str, tmp_path: Path) -> None:
    thread = serve(tmp_path, answer)
    connection = Connection(tmp_path, timeout=5)
    with pytest.raises(Ec2Error, match=message):
        connection.ask("keep")
    connection.close()
    thread.join()


def test_an_answer(tmp_path: Path) -> None:
    thread = serve(tmp_path, '{"endpoint_url": "http://127.31.255.1"}')
    connection = Connection(tmp_path, timeout=5)
    assert connection.ask("lease") == {"endpoint_url": "http://127.31.255.1"}
    connection.close()
    thread.join()


def test_a_lease_ends_with_its_holder_even_when_that_died_before_the_answer() -> None:
    supervisor = Supervisor(CloudConfig("", "us-east-1", 0, {}, (), Credentials("AKIA", "hidden")))
    ours, theirs = socket.socketpair()
    theirs.sendall(b'{"op": "lease"}\n')
    theirs.close()
    supervisor._talk(ours)
    assert supervisor._leases == 0
