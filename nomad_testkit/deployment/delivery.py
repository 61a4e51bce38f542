"""Bringing a run's secrets to its hosts, over SSH, while their user data waits for them.

User data would show them to whoever may ask for the instance's attributes, and to everything on the host that can
reach the instance metadata service.
"""

from __future__ import annotations

from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.secrets import RunSecrets, archive
from nomad_testkit.errors import HostError
from nomad_testkit.examples.example import Roles
from nomad_testkit.examples.security import SECRETS_FOLDER as FOLDER
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

SECONDS = 120.0
"""From the moment at which sshd answers."""
_ARCHIVE = f"{FOLDER}.tar"
# The folder is root's, and there with all that belongs in it or not at all.
_UNPACK = (
    f"test -d {FOLDER} || {{ rm -rf {FOLDER}.part && mkdir -m 0700 {FOLDER}.part"
    f" && tar --no-same-owner -xf {_ARCHIVE} -C {FOLDER}.part && mv -T {FOLDER}.part {FOLDER}; }} && rm -f {_ARCHIVE}"
)


def deliver(secrets: RunSecrets, roles: Roles, deadline: Deadline, host: Host) -> None:
    """Bring a host the files that it is to have; trying again, since a host that boots lets nobody in at first.

    Raises WaitTimeout that tells the host and what was seen last.
    """
    packed = archive(secrets.for_host(host.instance, host.address, roles))

    def probe() -> Ok[None] | Pending:
        try:
            host.put(packed, _ARCHIVE, mode=0o600, sudo=True)
            host.run(_UNPACK, sudo=True)
        except HostError as error:
            return Pending(str(error))
        return Ok(None)

    wait_until("the delivery of the run's secrets", probe, deadline=deadline.child(SECONDS), where=str(host))
