"""Deliver a run's secrets to its hosts over SSH, while their user data waits for them.

Secrets in user data would be readable with DescribeInstanceAttribute, and on the host through the metadata service.
"""

from __future__ import annotations

from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.secrets import RunSecrets, archive
from nomad_testkit.errors import HostError
from nomad_testkit.examples.example import Roles
from nomad_testkit.examples.security import SECRETS_FOLDER as FOLDER
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

SECONDS = 120.0
"""For one host, from the moment its sshd answers."""
_ARCHIVE = f"{FOLDER}.tar"
# The folder belongs to root and appears complete or not at all.
_UNPACK = (
    f"test -d {FOLDER} || {{ rm -rf {FOLDER}.part && mkdir -m 0700 {FOLDER}.part"
    f" && tar --no-same-owner -xf {_ARCHIVE} -C {FOLDER}.part && mv -T {FOLDER}.part {FOLDER}; }} && rm -f {_ARCHIVE}"
)


def deliver(secrets: RunSecrets, roles: Roles, deadline: Deadline, host: Host) -> None:
    """Copy a host's secrets to it, retrying while it boots.

    Raise WaitTimeout, with the host and the last error, if it does not accept them.
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
