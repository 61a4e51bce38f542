"""Each check of an image fails when the image is bad, and passes on the embedded EC2's own: on one instance, spoilt."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from nomad_testkit.cluster.host import Host
from nomad_testkit.deployment import amis
from nomad_testkit.settings import Settings
from nomad_testkit.suite import test_ami as suite
from nomad_testkit.targets.embedded.target import EmbeddedTarget

log = logging.getLogger(__name__)

OLD = "touch -d 2020-01-01"
ENABLED = r"[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
# A time zone file (RFC 8536) of its first version, for one hour east of Greenwich.
EAST = 'b"TZif".ljust(20, bytes(1)) + struct.pack(">6llBB4s", 0, 0, 0, 0, 1, 4, 3600, 0, 0, b"EST")'


@dataclass(frozen=True)
class Looked:
    """What the checks are given."""

    host: Host
    settings: Settings
    launched: float


@dataclass(frozen=True)
class Spoilt:
    """One way in which an image can be bad, and what the check says of it."""

    check: Callable[[Looked], None]
    named: str
    spoil: str
    undo: str


def of_agent(check: Callable[[str, Host], None], agent: str) -> Callable[[Looked], None]:
    return lambda looked: check(agent, looked.host)


def of_host(check: Callable[[Host], None]) -> Callable[[Looked], None]:
    return lambda looked: check(looked.host)


def since_launch(check: Callable[[Host, float], None]) -> Callable[[Looked], None]:
    return lambda looked: check(looked.host, looked.launched)


FILES = suite.test_its_files_are_owned_by_its_user_and_in_their_modes
EMPTY = suite.test_it_has_no_configuration_and_no_data_yet
UNIT = suite.test_its_unit_is_not_enabled_before_run_makes_it
KEYS = of_host(suite.test_no_ssh_key_is_let_in_but_the_runs)
CREDENTIALS = of_host(suite.test_no_private_key_or_credential_is_left)
MACHINE_ID = since_launch(suite.test_the_machine_id_is_the_hosts_own)
CLOUD_INIT = since_launch(suite.test_cloud_init_has_forgotten_the_builder)

SPOILT = {
    "owner": Spoilt(
        of_agent(FILES, "nomad"),
        "/opt/nomad/bin/nomad is regular file root 755; expected regular file nomad 755",
        "chown root /opt/nomad/bin/nomad",
        "chown nomad /opt/nomad/bin/nomad",
    ),
    "mode": Spoilt(
        of_agent(FILES, "consul"),
        "/opt/consul/data is directory consul 777; expected directory consul 750",
        "chmod 777 /opt/consul/data",
        "chmod 750 /opt/consul/data",
    ),
    "folder": Spoilt(
        of_agent(FILES, "consul"),
        "/opt/consul/config is missing",
        "mv /opt/consul/config /opt/consul/other",
        "mv /opt/consul/other /opt/consul/config",
    ),
    "link": Spoilt(
        of_agent(FILES, "nomad"),
        "/usr/local/bin/nomad is no link; expected a link",
        "rm /usr/local/bin/nomad",
        "ln -s /opt/nomad/bin/nomad /usr/local/bin/nomad",
    ),
    "login": Spoilt(
        of_agent(FILES, "consul"),
        "the user consul is consul:",
        "usermod -s /bin/sh consul",
        "usermod -s /usr/sbin/nologin consul",
    ),
    "data": Spoilt(
        of_agent(EMPTY, "nomad"),
        "/opt/nomad/data/client-id",
        "echo id > /opt/nomad/data/client-id",
        "rm /opt/nomad/data/client-id",
    ),
    "configuration": Spoilt(
        of_agent(EMPTY, "consul"),
        "/opt/consul/config/default.json",
        "echo {} > /opt/consul/config/default.json",
        "rm /opt/consul/config/default.json",
    ),
    "enabled": Spoilt(
        of_agent(UNIT, "nomad"),
        "nomad.service is enabled",
        f"printf '{ENABLED}' > /etc/systemd/system/nomad.service; systemctl -q enable nomad",
        "systemctl -q disable nomad; rm /etc/systemd/system/nomad.service; systemctl daemon-reload",
    ),
    "options": Spoilt(
        lambda looked: suite.test_bad_options_are_refused(
            "/opt/nomad/bin/run-nomad --server", "--num-servers", looked.host
        ),
        "ended with status 0; expected 2",
        "mv /opt/nomad/bin/run-nomad /root; printf '#!/bin/sh\\n' | install -m 755 /dev/stdin /opt/nomad/bin/run-nomad",
        "mv /root/run-nomad /opt/nomad/bin/run-nomad",
    ),
    "let in": Spoilt(
        KEYS,
        "builder@somewhere",
        "mkdir -p /home/other/.ssh; echo ssh-ed25519 AAAA builder@somewhere > /home/other/.ssh/authorized_keys",
        "rm -r /home/other",
    ),
    "credentials": Spoilt(
        CREDENTIALS,
        "/srv/settings.ini",
        "mkdir -p /srv; echo aws_secret_access_key = 0123456789012345678901234567890123456789 > /srv/settings.ini",
        "rm /srv/settings.ini",
    ),
    "private key": Spoilt(
        CREDENTIALS,
        "/etc/left.pem",
        "echo '-----BEGIN RSA PRIVATE KEY-----' > /etc/left.pem",
        "rm /etc/left.pem",
    ),
    "history": Spoilt(CREDENTIALS, "/root/.bash_history", "echo ls > /root/.bash_history", "rm /root/.bash_history"),
    "host key": Spoilt(
        since_launch(suite.test_host_keys_are_the_hosts_own),
        "/etc/ssh/ssh_host_ed25519_key.pub",
        f"{OLD} /etc/ssh/ssh_host_ed25519_key.pub",
        "touch /etc/ssh/ssh_host_ed25519_key.pub",
    ),
    "machine-id": Spoilt(MACHINE_ID, "/etc/machine-id", f"{OLD} /etc/machine-id", "touch /etc/machine-id"),
    "journal": Spoilt(
        MACHINE_ID,
        "0123456789abcdef",
        "mkdir /var/log/journal/0123456789abcdef",
        "rmdir /var/log/journal/0123456789abcdef",
    ),
    "previous instance": Spoilt(
        CLOUD_INIT,
        "remembers i-builder",
        "cd /var/lib/cloud/data; cp previous-instance-id /root; echo i-builder > previous-instance-id",
        "mv /root/previous-instance-id /var/lib/cloud/data",
    ),
    "instance state": Spoilt(
        CLOUD_INIT, "i-builder", "mkdir /var/lib/cloud/instances/i-builder", "rmdir /var/lib/cloud/instances/i-builder"
    ),
    "old log": Spoilt(
        CLOUD_INIT,
        "/var/log/user-data.log",
        f"echo x > /var/log/user-data.log; {OLD} /var/log/user-data.log",
        "rm /var/log/user-data.log",
    ),
    "uploads": Spoilt(
        of_host(suite.test_nothing_of_the_build_is_left),
        "/tmp/nomad-testkit/consul.zip",
        "mkdir /tmp/nomad-testkit; echo x > /tmp/nomad-testkit/consul.zip",
        "rm -r /tmp/nomad-testkit",
    ),
    "time zone": Spoilt(
        of_host(suite.test_the_clock_shows_utc),
        "not UTC",
        f"cp -P /etc/localtime /root; rm -f /etc/localtime; python3 -c 'import struct, sys; "
        f"sys.stdout.buffer.write({EAST})' > /etc/localtime",
        "rm /etc/localtime; if [ -L /root/localtime ]; then mv /root/localtime /etc; fi",
    ),
    "ulimit": Spoilt(
        of_host(suite.test_enough_files_can_be_open),
        "DefaultLimitNOFILE is 1024",
        "printf '[Manager]\\nDefaultLimitNOFILE=1024\\n' > /etc/systemd/system.conf.d/99.conf; systemctl daemon-reexec",
        "rm /etc/systemd/system.conf.d/99.conf; systemctl daemon-reexec",
    ),
    "failed unit": Spoilt(
        of_host(suite.test_it_boots_in_time_and_without_a_failed_unit),
        "spoilt.service",
        "systemd-run -q --wait --unit spoilt false || true",
        "systemctl reset-failed",
    ),
}


@pytest.fixture(scope="module")
def looked(nomad_settings: Settings, nomad_target: EmbeddedTarget) -> Iterator[Looked]:
    """An instance of the embedded EC2's own image."""
    image = nomad_target.own_image
    with amis.launched(nomad_settings, image, ssh_user="admin", target=nomad_target, progress=log.info) as host:
        facts = nomad_target.client("ec2").describe_instances(InstanceIds=[host.instance_id])
        launched = facts["Reservations"][0]["Instances"][0]["LaunchTime"].timestamp()
        yield Looked(host, nomad_settings, launched)


@pytest.mark.parametrize("spoilt", [pytest.param(one, id=name) for name, one in SPOILT.items()])
def test_a_bad_image_is_caught_and_the_fault_named(spoilt: Spoilt, looked: Looked) -> None:
    spoilt.check(looked)
    looked.host.run(spoilt.spoil, sudo=True)
    try:
        with pytest.raises(AssertionError, match=re.escape(spoilt.named)):
            spoilt.check(looked)
    finally:
        looked.host.run(spoilt.undo, sudo=True)


def test_another_version_is_caught(looked: Looked) -> None:
    suite.test_the_agent_is_the_version_that_was_asked_for("consul", looked.host, looked.settings)
    other = replace(looked.settings, consul_version="9.9.9")
    with pytest.raises(AssertionError, match=r"consul is 1\.14\.0; expected 9\.9\.9"):
        suite.test_the_agent_is_the_version_that_was_asked_for("consul", looked.host, other)
    given = replace(other, ami="ami-0123456789abcdef0")
    suite.test_the_agent_is_the_version_that_was_asked_for("consul", looked.host, given)


def test_an_old_kernel_and_a_slow_boot_are_caught(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.test_the_kernel_can_run_nomads_tasks(looked.host)
    monkeypatch.setattr(suite, "OLDEST_KERNEL", (999, 0))
    monkeypatch.setattr(suite, "BOOT_SECONDS", 0.001)
    with pytest.raises(AssertionError, match=r"expected 999\.0 or newer"):
        suite.test_the_kernel_can_run_nomads_tasks(looked.host)
    with pytest.raises(AssertionError, match="the boot took"):
        suite.test_it_boots_in_time_and_without_a_failed_unit(looked.host)


def test_testinfra_looks_over_the_hosts_own_connection(looked: Looked) -> None:
    look = looked.host.testinfra
    assert look is looked.host.testinfra
    assert look.file("/etc/passwd").contains("^consul:")
    assert look.run("printf %s", "it's quoted").stdout == "it's quoted"
    assert look.user().name == "admin"
    with look.sudo():
        assert look.user().name == "root"
    assert look.service("ssh").is_running
    assert look.package("openssh-server").is_installed
