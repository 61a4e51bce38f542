"""An image for hosts: what is on it, what must not be, and that it boots; all on one instance without user data.

pytest --pyargs nomad_testkit.suite -m ami                          the AMI that Packer builds from the bundled template
pytest --pyargs nomad_testkit.suite -m ami --nomad-ami ami-0abc     one of yours

A booted host has keys and logs of its own; what the image itself brought along is told from those by being older than
the instance.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from nomad_testkit import Host, Settings
from nomad_testkit.examples.login_key import public_line

if TYPE_CHECKING:
    from nomad_testkit.targets import Target

pytestmark = [pytest.mark.ami, pytest.mark.xdist_group("ami")]

AGENTS = ("consul", "nomad")
OLDEST_KERNEL = (4, 14)
"""That of Amazon Linux 2, the oldest that Nomad's exec driver is still used on."""
OPEN_FILES = 65536
"""LimitNOFILE of both agents' units."""
BOOT_SECONDS = 120.0
SECRET = r"A(K|S)IA[0-9A-Z]{16}|aws_secret_access_key *[=:] *[0-9A-Za-z/+]{40}|^-----BEGIN ([A-Z]+ )?PRIVATE KEY-----"  # noqa: S105
SEARCHED = ("/etc", "/home", "/opt", "/root", "/srv", "/tmp", "/usr/local", "/var/lib/cloud", "/var/tmp")  # noqa: S108

FOLDERS = (("", 0o755), ("bin", 0o755), ("config", 0o755), ("data", 0o750))
"""Below /opt/AGENT, with their modes."""


@pytest.fixture(scope="module")
def launched(nomad_ami_host: Host, nomad_target: Target) -> float:
    """When the instance was launched, as AWS tells it, in seconds since 1970."""
    ec2 = nomad_target.client("ec2")
    found = ec2.describe_instances(InstanceIds=[nomad_ami_host.instance_id])["Reservations"][0]["Instances"][0]
    return float(found["LaunchTime"].timestamp())


@pytest.mark.parametrize("agent", AGENTS)
def test_the_agent_is_the_version_that_was_asked_for(
    agent: str, nomad_ami_host: Host, nomad_settings: Settings
) -> None:
    wanted = getattr(nomad_settings, f"{agent}_version")
    if nomad_settings.ami and nomad_settings.source(f"{agent}_version") == "default":
        wanted = "any, since none is asked for"
    said = nomad_ami_host.testinfra.run(f"/opt/{agent}/bin/{agent} version").stdout
    found = re.search(r"\bv(\d+\.\d+\.\d+\S*)", said)
    assert found is not None, f"/opt/{agent}/bin/{agent} version says no version, but {said!r}"
    assert found[1] == wanted or wanted.startswith("any"), f"{agent} is {found[1]}; expected {wanted}"


@pytest.mark.parametrize("agent", AGENTS)
def test_its_files_are_owned_by_its_user_and_in_their_modes(agent: str, nomad_ami_host: Host) -> None:
    look = nomad_ami_host.testinfra
    wanted = {f"/opt/{agent}/{path}".rstrip("/"): f"directory {agent} {mode:o}" for path, mode in FOLDERS}
    wanted |= {f"/opt/{agent}/bin/{name}": f"regular file {agent} 755" for name in (agent, f"run-{agent}")}
    # One command for all: each is a round trip.
    shown = look.run("stat -c '%n %F %U %a' " + " ".join(wanted)).stdout
    found = dict(line.split(" ", 1) for line in shown.splitlines())
    faults = [
        f"{path} is {found.get(path, 'missing')}; expected {right}"
        for path, right in wanted.items()
        if found.get(path) != right
    ]
    link = look.run(f"readlink /usr/local/bin/{agent}").stdout.strip()
    if link != f"/opt/{agent}/bin/{agent}":
        faults.append(f"/usr/local/bin/{agent} is {link or 'no link'}; expected a link to /opt/{agent}/bin/{agent}")
    user = look.run(f"getent passwd {agent}").stdout.strip()
    if user.rpartition("/")[2] not in ("nologin", "false"):
        faults.append(f"the user {agent} is {user or 'missing'}; expected one who cannot log in")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("agent", AGENTS)
def test_it_has_no_configuration_and_no_data_yet(agent: str, nomad_ami_host: Host) -> None:
    left = found(nomad_ami_host, f"find /opt/{agent}/config /opt/{agent}/data -mindepth 1")
    assert not left, f"every host of the image would have these, a node's id among them: {', '.join(left)}"


@pytest.mark.parametrize("agent", AGENTS)
def test_its_unit_is_not_enabled_before_run_makes_it(agent: str, nomad_ami_host: Host) -> None:
    enabled = nomad_ami_host.testinfra.run(f"systemctl is-enabled {agent}.service").stdout.strip()
    active = nomad_ami_host.testinfra.run(f"systemctl is-active {agent}.service").stdout.strip()
    assert enabled not in ("enabled", "enabled-runtime", "alias", "static"), f"{agent}.service is {enabled}"
    assert active == "inactive", f"{agent}.service is {active}; expected inactive, until run-{agent} has been called"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/opt/consul/bin/run-consul", "--server"),
        ("/opt/consul/bin/run-consul --server --client", "--client"),
        ("/opt/consul/bin/run-consul --server --no-such-option", "--no-such-option"),
        ("/opt/consul/bin/run-consul --server --enable-gossip-encryption", "gossip-encryption-key"),
        ("/opt/nomad/bin/run-nomad", "--server"),
        ("/opt/nomad/bin/run-nomad --server", "--num-servers"),
        ("/opt/nomad/bin/run-nomad --server --num-servers 0", "--num-servers"),
        ("/opt/nomad/bin/run-nomad --client --num-servers 3", "--num-servers"),
    ],
)
def test_bad_options_are_refused(command: str, said: str, nomad_ami_host: Host) -> None:
    agent = command.split("/")[2]
    with nomad_ami_host.testinfra.sudo():
        ended = nomad_ami_host.testinfra.run(command)
    written = found(nomad_ami_host, f"find /opt/{agent}/config /etc/systemd/system/{agent}.service -type f")
    assert ended.rc == 2, f"`{command}` ended with status {ended.rc}; expected 2. It said: {ended.stderr}"
    assert said in ended.stderr, f"`{command}` does not name {said}, but says: {ended.stderr}"
    assert not written, f"`{command}` was refused, but has written {', '.join(written)}"


def test_no_ssh_key_is_let_in_but_the_runs(nomad_ami_host: Host) -> None:
    own = public_line(nomad_ami_host.ssh.key_path).split()[1]
    lines = found(nomad_ami_host, "find / -xdev -name 'authorized_keys*' -type f -exec cat {} +")
    # cloud-init puts the same key before root with a command that only refuses.
    others = [line for line in lines if line.strip() and not line.startswith("#") and own not in line]
    assert not others, "every host of the image lets these in: " + ", ".join(line[-60:] for line in others)


def test_no_private_key_or_credential_is_left(nomad_ami_host: Host) -> None:
    folders = " ".join(SEARCHED)
    ours = r"^/etc/ssh/ssh_host_[a-z0-9]+_key$"
    search = f"grep -rIlE {shlex.quote(SECRET)} --exclude-dir=site-packages --exclude-dir=dist-packages {folders}"
    left = [path for path in found(nomad_ami_host, search) if not re.search(ours, path)]
    left += found(nomad_ami_host, "find /root /home -name .aws -o -name '.*_history' -size +0")
    assert not left, f"these hold a credential, or what was typed: {', '.join(left)}"


def test_host_keys_are_the_hosts_own(nomad_ami_host: Host, launched: float) -> None:
    keys = found(nomad_ami_host, "find /etc/ssh -name 'ssh_host_*_key'")
    assert keys, "there is no host key at all"
    old = older(nomad_ami_host, launched, "/etc/ssh/ssh_host_*")
    assert not old, f"every host of the image has the same: {', '.join(old)}"


def test_the_machine_id_is_the_hosts_own(nomad_ami_host: Host, launched: float) -> None:
    machine_id = nomad_ami_host.run("cat /etc/machine-id").stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{32}", machine_id), f"/etc/machine-id is {machine_id!r}; expected 32 digits"
    old = older(nomad_ami_host, launched, "/etc/machine-id", "/var/lib/dbus/machine-id")
    assert not old, f"every host of the image has the same: {', '.join(old)}; it must be empty in the image"
    journals = found(nomad_ami_host, "find /var/log/journal -mindepth 1 -maxdepth 1 -type d -printf '%f\\n'")
    others = sorted(set(journals) - {machine_id})
    assert not others, f"/var/log/journal has the journals of other machines: {', '.join(others)}"


def test_cloud_init_has_forgotten_the_builder(nomad_ami_host: Host, launched: float) -> None:
    previous = nomad_ami_host.run("cat /var/lib/cloud/data/previous-instance-id", sudo=True).stdout.strip()
    assert previous == "NO_PREVIOUS_INSTANCE_ID", f"cloud-init remembers {previous}: its state is in the image"
    instances = found(nomad_ami_host, "ls /var/lib/cloud/instances")
    assert instances == [nomad_ami_host.instance_id], f"cloud-init has the state of {', '.join(instances)}"
    logs = older(nomad_ami_host, launched, "/var/log/cloud-init*.log", "/var/log/user-data.log")
    begun = found(nomad_ami_host, "grep -c 'init-local' /var/log/cloud-init.log")
    assert not logs, f"logs of the instance that the image was made from: {', '.join(logs)}"
    assert begun != ["0"], "cloud-init has not run on this host"


def test_nothing_of_the_build_is_left(nomad_ami_host: Host) -> None:
    left = found(nomad_ami_host, "find /tmp /var/tmp -mindepth 1 -type f -not -path '*/systemd-private-*'")
    left += found(nomad_ami_host, "find /tmp/nomad-testkit -maxdepth 0")
    assert not left, f"these came with the image: {', '.join(left)}"


def test_the_clock_shows_utc(nomad_ami_host: Host) -> None:
    assert nomad_ami_host.run("date +%z").stdout.strip() == "+0000", "the time zone is not UTC"


def test_the_kernel_can_run_nomads_tasks(nomad_ami_host: Host) -> None:
    release = nomad_ami_host.run("uname -r").stdout.strip()
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    assert version >= OLDEST_KERNEL, f"the kernel is {release}; expected {'.'.join(map(str, OLDEST_KERNEL))} or newer"
    filesystems = nomad_ami_host.run("cat /proc/filesystems").stdout.split()
    missing = {"proc", "tmpfs"} - set(filesystems)
    if not {"cgroup", "cgroup2"} & set(filesystems):
        missing.add("cgroup or cgroup2")
    assert not missing, f"the kernel has no {', '.join(sorted(missing))}"


def test_enough_files_can_be_open(nomad_ami_host: Host) -> None:
    shown = nomad_ami_host.run(
        "ulimit -Hn; systemctl show --value -p DefaultLimitNOFILE; cat /proc/sys/fs/nr_open;"
        " awk '/^Max open files/ {print $5}' /proc/1/limits"
    ).stdout.split()
    login, service, kernel, init = (math.inf if one in ("unlimited", "infinity") else int(one) for one in shown)
    # A login cannot get more than init has, which is the machine's affair where a host is a container.
    wanted = min(OPEN_FILES, init)
    assert login >= wanted, f"ulimit -Hn is {login}; expected {wanted} or more (/etc/security/limits.conf)"
    assert service >= OPEN_FILES, (
        f"DefaultLimitNOFILE is {service}; expected {OPEN_FILES} or more (systemd-system.conf)"
    )
    assert kernel >= OPEN_FILES, f"fs.nr_open is {kernel}; expected {OPEN_FILES} or more (sysctl)"


def test_it_boots_in_time_and_without_a_failed_unit(nomad_ami_host: Host) -> None:
    failed = found(nomad_ami_host, "systemctl list-units --failed --plain --no-legend")
    assert not failed, "units have failed: " + ", ".join(failed)
    shown = nomad_ami_host.run("systemctl show -p UserspaceTimestampMonotonic -p FinishTimestampMonotonic").stdout
    moments = dict(line.split("=") for line in shown.split())
    seconds = (int(moments["FinishTimestampMonotonic"]) - int(moments["UserspaceTimestampMonotonic"])) / 1e6
    assert 0 < seconds <= BOOT_SECONDS, f"the boot took {seconds:.1f} s; expected at most {BOOT_SECONDS:.0f} s"


def found(host: Host, command: str) -> list[str]:
    """List the lines that a command prints; that it finds nothing, or not everything, is no fault of it."""
    return host.run(command, sudo=True, check=False, timeout=300).stdout.splitlines()


def older(host: Host, launched: float, *patterns: str) -> list[str]:
    """List the files that were last changed before the instance was launched; links do not count."""
    return found(host, f"find {' '.join(patterns)} -maxdepth 0 -type f -size +0 -not -newermt @{launched:.0f}")
