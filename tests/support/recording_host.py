"""A host that nothing stands behind: it notes what is run on it, and answers as a test says."""

from __future__ import annotations

from pathlib import Path

from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import CommandFailed
from nomad_testkit.modules.network import Instance
from nomad_testkit.ssh import CommandResult


class RecordingHost(Host):
    """A host that notes what is run on it; `failing` begins the commands that it refuses."""

    def __init__(self, number: int, group: str) -> None:
        address = f"172.31.0.{number}"
        instance = Instance(f"i-{number}", group, "running", address, address, "us-east-1a", "ami-1")
        super().__init__(instance, address=address, ssh_user="admin", key_path=Path("no-key"))
        self.commands: list[str] = []
        self.failing = "nothing"
        self.answers: dict[str, str] = {}

    def run(self, command: str, *, timeout: float = 60.0, check: bool = True, sudo: bool = False) -> CommandResult:
        self.commands.append(command)
        if command.startswith(self.failing):
            if check:
                raise CommandFailed(self.address, command, 1, "", "refused")
            return CommandResult(1, "", "refused")
        answer = next((text for start, text in self.answers.items() if command.startswith(start)), "")
        return CommandResult(0, answer, "")

    def put(self, source: bytes | str | Path, remote: str, *, mode: int = 0o644, sudo: bool = False) -> None:
        self.run(f"put {remote}", sudo=sudo)
