"""How this machine talks to a cloud: one JSON object a line over a Unix socket that only root can open.

An open connection that asked for a lease keeps the cloud alive. The kernel closes it when its process ends, however it
ends, and with the last lease the cloud goes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.ec2.credentials import Credentials
from nomad_testkit.errors import Ec2Error
from nomad_testkit.forks import keep_from_children

SOCKET = "control.sock"
DESCRIPTION = "cloud.json"
LOG = "cloud.log"


@dataclass(frozen=True, slots=True)
class ImageOnDisk:
    """An image, as JSON can carry it."""

    image_id: str
    name: str
    layers: tuple[str, ...]
    description: str
    architecture: str
    owner_id: str = ""


@dataclass(frozen=True, slots=True)
class CloudConfig:
    """Everything that the process of a cloud is told at its start."""

    state_dir: str
    region: str
    index: int
    cgroups: dict[str, bool]
    images: tuple[ImageOnDisk, ...]
    credentials: Credentials
    isolation: str = "full"
    """A value of `isolation.Isolation`."""
    users: tuple[int, ...] | None = None
    """The users of the machine who may call the cloud and its hosts; None for all, where nobody can be kept away."""

    def to_json(self) -> str:
        """Write it down, with the secret: only a pipe to the cloud's own process may carry it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CloudConfig:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        raw["images"] = tuple(ImageOnDisk(**{**image, "layers": tuple(image["layers"])}) for image in raw["images"])
        raw["users"] = None if raw["users"] is None else tuple(raw["users"])
        raw["credentials"] = Credentials(**raw["credentials"])
        return cls(**raw)


class Connection:
    """One connection to a cloud's control socket."""

    def __init__(self, state_dir: Path, *, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._where = state_dir
        try:
            self._socket.connect(str(state_dir / SOCKET))
        except OSError as error:
            self._socket.close()
            raise Ec2Error(f"no embedded cloud answers at {state_dir}: {error}") from error
        self._lines = self._socket.makefile("r", encoding="utf-8")
        keep_from_children(self)

    def ask(self, operation: str, **arguments: object) -> Mapping[str, Any]:
        """Send one request and return the answer. Raises Ec2Error with the cloud's own words."""
        try:
            self._socket.sendall((json.dumps({"op": operation, **arguments}) + "\n").encode())
            line = self._lines.readline()
        except OSError as error:
            raise Ec2Error(f"the embedded cloud at {self._where} did not answer `{operation}`: {error}") from error
        if not line:
            raise Ec2Error(f"the embedded cloud at {self._where} ended before it answered `{operation}`")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Ec2Error(f"the embedded cloud refused `{operation}`: {answer['error']}")
        return answer

    def drop(self) -> None:
        """Leave the connection to the process that this one was forked from."""
        if (descriptor := self._socket.detach()) >= 0:
            os.close(descriptor)

    def close(self) -> None:
        """Close the connection, and with it a lease that it asked for."""
        self._lines.close()
        self._socket.close()
