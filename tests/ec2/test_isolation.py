"""Root on a host tries to become root on the machine, and cannot.

No probe changes anything where it succeeds: a file is opened and not written, a capability is looked up and not used,
a process is asked for and not signalled. Each is made once more on a host without the protection, where it succeeds.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ec2_box import Box, let_in
from pytest_runs import supervisors_of

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.isolation import Isolation
from nomad_testkit.ec2.machines.layers import CERTIFICATES, ENVIRONMENT, INJECTED, LocalImage
from nomad_testkit.targets.key_pair import write_key_pair
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

VICTIM = "the machine's\n"
LINKED = ("usr/local/share/ca-certificates", "etc/systemd/system.conf.d", "etc/hostname", CERTIFICATES, ENVIRONMENT)
"""Of what the machine writes onto a host's disk: files, and folders above files."""
CAPABILITIES = {"insmod": 16, "hardware ports": 17, "mounts and release_agent": 21, "the clock": 25, "mknod": 27}
"""Of capabilities(7); each counts for the machine only in its first user namespace."""


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the machine, where the links of `hostile` lead."""
    folder = tmp_path_factory.mktemp("victim")
    for name in (*INJECTED, CERTIFICATES, ENVIRONMENT):
        (folder / Path(name).name).write_text(VICTIM)
    return folder


@pytest.fixture(scope="module")
def hostile(debian: LocalImage, victim: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalImage:
    """An image with links out of it, and with a node of a device of the machine."""
    layer = tmp_path_factory.mktemp("hostile") / "layer"
    for name in ("etc/systemd", "usr/local/share", "etc/ssl/certs"):
        (layer / name).mkdir(parents=True)
    for name in LINKED:
        folder = name not in (*INJECTED, CERTIFICATES, ENVIRONMENT)
        (layer / name).symlink_to(victim if folder else victim / Path(name).name)
    (layer / "srv").mkdir()
    kind, number = machine_device()
    os.mknod(layer / "srv/device", 0o666 | (stat.S_IFBLK if kind == "b" else stat.S_IFCHR), number)
    for path in (layer, *layer.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return LocalImage("ami-0000000000000bad0", "hostile", (layer, *debian.layers))


def machine_device() -> tuple[str, int]:
    """Give the type and number of a device of the machine: the disk with its root, where its root may open that.

    Else the kernel's log, which any root may.
    """
    disk = Path("/").stat().st_dev
    path = Path(f"/sys/dev/block/{os.major(disk)}:{os.minor(disk)}")
    if path.exists():
        try:
            os.close(os.open(f"/dev/{path.resolve().name}", os.O_RDONLY))
        except OSError:
            pass
        else:
            return "b", disk
    return "c", Path("/dev/kmsg").stat().st_rdev


@pytest.fixture(scope="module")
def boxes(debian: LocalImage, hostile: LocalImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Box]]:
    """Two hosts of one cloud, the second of the hostile image, and two of that image with less protection and none."""
    key = tmp_path_factory.mktemp("isolation-key") / "id"
    public = write_key_pair(key)
    with ExitStack() as stack:
        found = []
        wanted = {Isolation.FULL: [debian, hostile], Isolation.NONE: [hostile], Isolation.REDUCED: [hostile]}
        for isolation, images in wanted.items():
            cloud = stack.enter_context(
                EmbeddedEc2.start(region="us-east-1", images=[debian, hostile], isolation=isolation)
            )
            api = cloud.client("ec2")
            let_in(api, f"{cloud.machine_address}/32")
            api.import_key_pair(KeyName="tests", PublicKeyMaterial=public.encode())
            for image in images:
                started = api.run_instances(ImageId=image.image_id, MinCount=1, MaxCount=1, KeyName="tests")
                box = Box(cloud, started["Instances"][0]["InstanceId"], key)
                stack.callback(box.ssh.close)
                found.append(box)
        for box in found:
            box.await_status_ok()
            box.await_user_data()
        yield found


@pytest.fixture(scope="module")
def host(boxes: list[Box]) -> Box:
    """An ordinary host."""
    return boxes[0]


@pytest.fixture(scope="module")
def other(boxes: list[Box]) -> Box:
    """Another host of the same cloud, booted from the hostile image."""
    return boxes[1]


@pytest.fixture(scope="module")
def unprotected(boxes: list[Box]) -> Box:
    """A host whose root is root on the machine."""
    return boxes[2]


@pytest.fixture(scope="module")
def reduced(boxes: list[Box]) -> Box:
    """A host as an older kernel has it, without user ids of its own."""
    return boxes[3]


def succeeds(box: Box, script: str) -> bool:
    """Whether a shell script on a host, run by its root, ends with status 0."""
    return box.ssh.run(script, sudo=True, check=False).status == 0


def opens(path: str, flags: str) -> str:
    """Give a script that opens a file, neither reads nor writes it, and closes it."""
    return f"python3 -c {shlex.quote(f'import os; os.close(os.open({path!r}, {flags}))')}"


def may(capability: int) -> str:
    """Give a script that looks whether root has a capability where it counts for the machine."""
    look = "\n".join(
        (
            "import sys",
            "own = [line.split() for line in open('/proc/self/uid_map')]",
            "bound = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('CapBnd'))",
            f"sys.exit(not (own[0][:2] == ['0', '0'] and int(bound, 16) >> {capability} & 1))",
        )
    )
    return f"python3 -c {shlex.quote(look)}"


KIND, NUMBER = machine_device()
SYSRQ = "/proc/sysrq-trigger"
"""Which a kernel can be built without."""
UNCOVER = "for p in /proc/sys/net /proc/sys /proc/sysrq-trigger; do mount -o remount,rw,bind $p 2>/dev/null; done;"
PROBES = {
    "a device, by a node of its own": (
        f"rm -f /root/node; mknod /root/node {KIND} {os.major(NUMBER)} {os.minor(NUMBER)} && "
        + opens("/root/node", "os.O_RDONLY")
    ),
    "core_pattern": f"{UNCOVER} {opens('/proc/sys/kernel/core_pattern', 'os.O_WRONLY')}",
    "a kernel parameter of memory": f"{UNCOVER} {opens('/proc/sys/vm/overcommit_memory', 'os.O_WRONLY')}",
    **({"sysrq": f"{UNCOVER} {opens(SYSRQ, 'os.O_WRONLY')}"} if Path(SYSRQ).exists() else {}),
    **{name: may(number) for name, number in CAPABILITIES.items()},
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_root_on_a_host_is_nobody_on_the_machine(probe: str, host: Box, unprotected: Box) -> None:
    # In a mount namespace of its own, so that what it uncovers stays covered for the tests after it.
    script = f"unshare --mount sh -c {shlex.quote(probe)}"
    assert not succeeds(host, script)
    assert succeeds(unprotected, script), "the probe does not succeed without the protection either: it proves nothing"


def test_a_node_in_an_image_opens_no_device(other: Box, unprotected: Box) -> None:
    probe = opens("/srv/device", "os.O_RDONLY")
    uncovered = f"mount -o remount,dev / 2>/dev/null; mount -o remount,dev,bind / 2>/dev/null; {probe}"
    script = f"unshare --mount sh -c {shlex.quote(uncovered)}"
    assert not succeeds(other, script)
    assert succeeds(unprotected, script)


@pytest.mark.parametrize("name", ["insmod", "hardware ports", "the clock"])
def test_an_older_kernels_host_lacks_what_harms_most(name: str, reduced: Box, unprotected: Box) -> None:
    assert reduced.run("cat /proc/self/uid_map").split()[:2] == ["0", "0"]
    assert not succeeds(reduced, may(CAPABILITIES[name]))
    assert succeeds(unprotected, may(CAPABILITIES[name]))


def test_an_older_kernels_host_opens_no_device_either(reduced: Box) -> None:
    assert not succeeds(reduced, PROBES["a device, by a node of its own"])
    assert not succeeds(reduced, opens("/srv/device", "os.O_RDONLY"))
    assert succeeds(reduced, opens("/dev/null", "os.O_RDWR"))


def init_of(box: Box) -> int:
    """Give the pid, on the machine, of a host's init."""
    for pid in descendants(supervisors_of(box.cloud.warden_pid)[-1]):
        environment = Path(f"/proc/{pid}/status").read_text()
        if "\nNSpid:\t" in environment and environment.split("\nNSpid:\t")[1].split("\n")[0].split()[1:][-1:] == ["1"]:
            name = subprocess.run(
                ["nsenter", f"--target={pid}", "--uts", "uname", "-n"], capture_output=True, text=True, check=True
            ).stdout.strip()
            if name == "ip-" + box.private_ip.replace(".", "-"):
                return pid
    raise AssertionError(f"no init of {box.instance_id}")


def descendants(pid: int) -> list[int]:
    """List a process and all below it."""
    below = [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return [pid, *(one for child in below for one in descendants(int(child)))]


def test_a_hosts_ids_reach_nothing_of_the_machine_or_of_another_host(host: Box, other: Box, unprotected: Box) -> None:
    """Even with the machine's processes and files in sight, which no host has."""
    first, second, without = init_of(host), init_of(other), init_of(unprotected)
    control = other.cloud.state_dir / "control.sock"
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(control)!r})"
    asked = {
        "another host's process": f"kill -0 {second}",
        "a process of the machine": f"kill -0 {os.getpid()}",
        "the cloud": f"kill -0 {supervisors_of(host.cloud.warden_pid)[-1]}",
        "another host's files": f"ls /proc/{second}/root/root/",
        "another host's memory": f"head -c 0 /proc/{second}/environ",
        "the control socket": f"python3 -c {shlex.quote(connect)}",
        "the cloud's log": f"head -c 0 {control.parent}/cloud.log",
        "the cloud's secret key": f"head -c 0 {control.parent}/secret-access-key",
        "the machine's passwords": "head -c 0 /etc/shadow",
    }
    for what, command in asked.items():
        assert not as_root_of(first, command), what
        assert as_root_of(without, command), f"{what}: not even without protection"


def as_root_of(init: int, command: str) -> bool:
    """Run a command on the machine with the ids, and in the user namespace, of a host's root."""
    namespace = Path(f"/proc/{init}/ns/user")
    own = namespace.readlink() == Path("/proc/self/ns/user").readlink()
    enter = [] if own else ["nsenter", f"--user={namespace}", "--setuid=0", "--setgid=0"]
    return subprocess.run([*enter, "sh", "-c", command], capture_output=True, check=False).returncode == 0


def test_ids_are_shared_with_nobody(host: Box, other: Box) -> None:
    def used(box: Box) -> set[int]:
        first, base, count = map(int, box.run("cat /proc/self/uid_map").split())
        assert (first, count) == (0, 65536)
        return set(range(base, base + count))

    assert 0 not in used(host)
    assert not used(host) & used(other)
    assert Path(f"/proc/{init_of(host)}").stat().st_uid == min(used(host))


def test_links_of_an_image_lead_nowhere_on_the_machine(other: Box, victim: Path) -> None:
    names = (*INJECTED, CERTIFICATES, ENVIRONMENT)
    present = other.run(f"cd / && for f in {' '.join(names)}; do test -s $f && echo $f; done; true").split()
    ca = "etc/systemd/system.conf.d/50-cloud-ca.conf"
    # The rest is for images made elsewhere.
    assert {"etc/resolv.conf", "etc/hostname", ca, CERTIFICATES, ENVIRONMENT} <= set(present)
    image = other.api.create_image(InstanceId=other.instance_id, Name="made of hostile", NoReboot=True)["ImageId"]

    def probe() -> Ok[None] | Pending:
        state = other.api.describe_images(ImageIds=[image])["Images"][0]["State"]
        return Ok(None) if state == "available" else Pending(state)

    wait_until("the image", probe, deadline=Deadline.after(60))
    assert {path.name: path.read_text() for path in victim.iterdir()} == {
        path.name: VICTIM for path in victim.iterdir()
    }
    assert succeeds(other, "true"), "it has gone on after it was copied"


def test_what_a_host_may_do_on_ec2_it_may_do_here(host: Box) -> None:
    assert host.run("sysctl -qw net.ipv4.ip_forward=1 && cat /proc/sys/net/ipv4/ip_forward").strip() == "1"
    assert host.run("nft add table ip probe && nft delete table ip probe && echo done").strip() == "done"
    assert host.run("ip link add probe0 type veth && ip link del probe0 && echo done").strip() == "done"
    assert host.run("mkdir -p /mnt/t && mount -t tmpfs t /mnt/t && umount /mnt/t && echo done").strip() == "done"
    assert (
        host.run("su -s /bin/sh nobody -c 'ping -c 1 -W 5 169.254.169.253 >/dev/null && echo done'").strip() == "done"
    )
    assert host.run("stat -c %U:%G /root /usr/bin/sudo /etc/passwd | sort -u").strip() == "root:root"
    assert host.run("find / -xdev \\( -nouser -o -nogroup \\) | head").strip() == ""
    assert host.run("systemctl --failed --no-legend").strip() == ""
