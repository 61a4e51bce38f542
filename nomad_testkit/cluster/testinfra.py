"""pytest-testinfra over our own SSH: the same connection, key and time-outs as every other command on a host."""

# testinfra has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from testinfra.backend.base import BaseBackend
from testinfra.host import Host

if TYPE_CHECKING:
    from testinfra.backend.base import CommandResult

    from nomad_testkit.ssh import SshConnection


class SshBackend(BaseBackend):
    """Runs testinfra's commands; each may take as long as any on a host. Raises HostError when the host is lost."""

    NAME: ClassVar[str] = "nomad-testkit"

    def __init__(self, ssh: SshConnection) -> None:
        super().__init__(ssh.address)
        self._ssh = ssh

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Run one command, with `args` quoted into it; testinfra looks at its status."""
        line = self.get_command(command, *args)
        done = self._ssh.run(line, check=False)
        return self.result(done.status, self.encode(line), done.stdout, done.stderr)


def testinfra_host(ssh: SshConnection) -> Host:
    """Give testinfra's view of the host at the other end; nothing is sent before it is asked.

    >>> testinfra_host(ssh).file("/etc/passwd").mode == 0o644  # doctest: +SKIP
    True
    """
    host = Host(SshBackend(ssh))
    host.backend.set_host(host)
    return host
