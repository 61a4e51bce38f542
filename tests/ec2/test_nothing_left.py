"""What proves that nothing is left has to see what is: one of each kind is planted, seen, taken away and seen no more.

Other things may come and go on the machine meanwhile, so only what was planted is looked for.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from deploying import everything
from ec2_box import Launch

from nomad_testkit.cli.bench import soak
from nomad_testkit.cli.bench.machine_state import MachineState, listeners_of
from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.cgroups import CgroupTree
from nomad_testkit.errors import TeardownError
from nomad_testkit.runs.run import Run
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

MARK = uuid.uuid4().hex[:6]
NAME = f"nomad-testkit-planted-{MARK}"
LINK = f"nt{MARK}"
"""A link's name has 15 characters at most."""
ROUTE = f"198.18.{int(MARK[:2], 16)}.{int(MARK[2:4], 16)}"
"""Of the block for benchmarks (RFC 2544), which nobody routes."""

Plant = Callable[[Path], AbstractContextManager[str]]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def made(make: str, take: str, words: str) -> Plant:
    """Give a plant that a command makes and another takes away; `words` are what is looked for."""

    @contextmanager
    def plant(folder: Path) -> Iterator[str]:
        run("sh", "-ec", make.format(folder=folder))
        try:
            yield words
        finally:
            run("sh", "-ec", take.format(folder=folder))

    return plant


@contextmanager
def process(*words: str) -> Iterator[str]:
    """A process that its parent has left behind, as the warden leaves its own; it waits for its standard input."""
    script = 'exec 3<&0; "$@" <&3 >/dev/null 2>&1 & echo $!'
    starter = subprocess.Popen(
        ["sh", "-c", script, "sh", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        try:
            yield f"{pid}: {' '.join(words)}"
        finally:
            os.kill(pid, signal.SIGKILL)


@contextmanager
def warden(folder: Path) -> Iterator[str]:
    """The warden of a cloud, of a Python in one of tox's environments."""
    environment = folder / ".tox" / "alone"
    environment.parent.mkdir()
    environment.symlink_to(sys.prefix)
    with process(str(environment / "bin" / "python"), "-m", "nomad_testkit.ec2.warden", "11") as planted:
        yield planted


def program(*words: str) -> Plant:
    """Give a plant of a process that is called so."""
    return lambda _: process(sys.executable, "-c", "input()", *words)


@contextmanager
def nameless_namespace(_: Path) -> Iterator[str]:
    """One that nothing but a process keeps, which says nothing of who it belongs to."""
    held = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    own = Path("/proc/self/ns/net").readlink()

    def probe() -> Ok[str] | Pending:
        link = Path(f"/proc/{held.pid}/ns/net").readlink()
        return Ok(str(link)) if link != own else Pending("it is in this one")

    with held:
        try:
            yield wait_until("the namespace", probe, deadline=Deadline.after(60))
        finally:
            held.kill()


@contextmanager
def second_mount(folder: Path) -> Iterator[str]:
    """Over another at the same place."""
    with MOUNT(folder), made(f"mount -t tmpfs over-{MARK} {{folder}}", "umount {folder}", "")(folder):
        yield f" - tmpfs over-{MARK} "


@contextmanager
def rule_in_a_table(folder: Path) -> Iterator[str]:
    with TABLE(folder):
        run("sh", "-ec", f"nft add chain ip {LINK} c; nft add rule ip {LINK} c ip saddr {ROUTE} counter drop")
        yield f"ip saddr {ROUTE} counter drop"


def listening(kind: socket.SocketKind) -> Plant:
    @contextmanager
    def plant(_: Path) -> Iterator[str]:
        with socket.socket(socket.AF_INET, kind) as one:
            one.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                one.listen()
            yield f" 127.0.0.1:{one.getsockname()[1]}"

    return plant


@contextmanager
def cgroup(_: Path) -> Iterator[str]:
    tree = CgroupTree(NAME)
    tree.create()
    try:
        yield NAME
    finally:
        tree.destroy(Deadline.after(60))


def named(folder: str | None) -> Plant:
    @contextmanager
    def plant(state: Path) -> Iterator[str]:
        path = (Path(folder) if folder else state / "runs") / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        try:
            yield str(path)
        finally:
            path.unlink()
            with suppress(OSError):
                path.parent.rmdir()

    return plant


MOUNT = made(f"mount -t tmpfs planted-{MARK} {{folder}}", "umount {folder}", f" - tmpfs planted-{MARK} ")
TABLE = made(f"nft add table ip {LINK}", f"nft delete table ip {LINK}", f"table ip {LINK} ")
IPV6 = f"2001:db8:{MARK[:4]}::/64"
SHOWN = IPV6.replace(":0", ":") if MARK[0] == "0" else IPV6


def ip(what: str, words: str, *, version: int = 4) -> Plant:
    """Give a plant of ip(8), which says ``add`` where one is made and ``del`` where it is taken away."""
    return made(f"ip -{version} {what.format('add')}", f"ip -{version} {what.format('del')}", words)


PLANTS: dict[str, tuple[str, Plant]] = {
    "a warden in .tox": ("processes", warden),
    "a worker of pytest": ("processes", program("pytest", "-n2", "nomad_testkit")),
    "a command line": ("processes", program("/usr/bin/nomad-testkit", "up")),
    "an agent": ("processes", program("/usr/bin/consul", "agent")),
    "a mount": ("mounts", MOUNT),
    "a mount over another": ("mounts", second_mount),
    "a named namespace": ("namespaces", made(f"ip netns add {NAME}", f"ip netns del {NAME}", NAME)),
    "a nameless namespace": ("namespaces", nameless_namespace),
    "a link": ("links", made(f"ip link add {LINK} type veth peer name {LINK}p", f"ip link del {LINK}", LINK)),
    "an address": ("addresses", ip(f"addr {{}} {ROUTE}/32 dev lo", f"inet {ROUTE}/32")),
    "a route": ("routes", ip(f"route {{}} blackhole {ROUTE}", f"-4 blackhole {ROUTE}")),
    "a route of IPv6": (
        "routes",
        ip(
            f"route {{}} blackhole {IPV6}",
            f"-6 blackhole {SHOWN}",
            version=6,
        ),
    ),
    "a rule": ("rules", ip(f"rule {{}} from {ROUTE} lookup main", f"from {ROUTE} lookup main")),
    "a table": ("nftables", TABLE),
    "a rule in a table": ("nftables", rule_in_a_table),
    "a listener": ("listeners", listening(socket.SOCK_STREAM)),
    "a listener of UDP": ("listeners", listening(socket.SOCK_DGRAM)),
    "a cgroup": ("cgroups", cgroup),
    "a temporary file": ("files", named("/tmp")),
    "a cloud's folder": ("files", named("/run/nomad-testkit")),
    "a namespace's file": ("files", named("/run/netns")),
    "a machine's file": ("files", named("/run/systemd/nspawn")),
    "a run's folder": ("files", named(None)),
}


@pytest.mark.parametrize("kind", PLANTS)
def test_what_is_left_is_seen(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    field, plant = PLANTS[kind]
    before = MachineState.take()

    def seen(words: str) -> list[str]:
        return [one for one in MachineState.take().left_since(before).get(field, ()) if words in one]

    with plant(tmp_path) as words:
        wait_until(  # a process has the command line of its parent until it has been executed
            f"{kind} to be seen",
            lambda: Ok(None) if seen(words) else Pending(str(MachineState.take().left_since(before))),
            deadline=Deadline.after(60),
        )
    wait_until(
        f"{kind} to be gone",
        lambda: Pending(str(left)) if (left := seen(words)) else Ok(None),
        deadline=Deadline.after(60),
    )


def test_every_kind_is_planted() -> None:
    assert {field for field, _ in PLANTS.values()} == set(MachineState.__dataclass_fields__)


def test_the_fixture_fails_a_test_that_leaves_something(pytester: pytest.Pytester) -> None:
    own = (Path(__file__).parents[1] / "conftest.py").read_text()
    patient = "Deadline.after(15)"
    assert patient in own
    pytester.makeconftest(own.replace(patient, "Deadline.after(0.5)"))
    pytester.makeini("[pytest]\nmarkers = alone")
    planted = Path("/tmp", NAME)
    pytester.makepyfile(f"def test_it(nothing_left): open({str(planted)!r}, 'w').close()")
    try:
        ran = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    finally:
        planted.unlink()
    ran.assert_outcomes(passed=1, errors=1)
    assert str(planted) in ran.stdout.str()


class OfThisTest(MachineState):
    """Nothing but what this file plants: others may be at work on the machine."""

    def left_since(self, before: MachineState) -> dict[str, set[str]]:
        left = {kind: {one for one in these if NAME in one} for kind, these in super().left_since(before).items()}
        return {kind: these for kind, these in left.items() if these}


def test_the_soak_sees_what_a_deployment_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_ONE_SERVER", f"import os; open(f'/tmp/{NAME}-{{os.getpid()}}', 'w').close()")
    monkeypatch.setattr(soak, "GONE_SECONDS", 1.0)
    monkeypatch.setattr(soak, "MachineState", OfThisTest)
    # It is killed at a random moment of its first second or so: often enough too early.
    try:
        with pytest.raises(TeardownError) as caught:
            soak.run_soak(50, seed=1, progress=print)
    finally:
        planted = list(Path("/tmp").glob(f"{NAME}-*"))
        for path in planted:
            path.unlink()
    assert re.search(rf"deployment \d+ of 50 with seed 1, killed after .*'/tmp/{NAME}-\d+'", str(caught.value))
    assert len(planted) == 2


def test_the_listeners_of_processes_are_told_from_others(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "with socket.create_server(('127.0.0.1', 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:\n"
        "    udp.bind(('127.0.0.1', 0))\n"
        "    print(tcp.getsockname()[1], udp.getsockname()[1], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with (
        socket.create_server(("127.0.0.1", 0)),
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one,
    ):
        assert one.stdout is not None
        ports = one.stdout.readline().split()
        found = listeners_of([one.pid])
        one.communicate("")
    assert sorted(re.findall(r"127\.0\.0\.1:(\d+)", "\n".join(found))) == sorted(ports)
    assert listeners_of([one.pid]) == []


def test_what_is_left_in_an_account_is_seen(
    cloud: EmbeddedEc2, launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`everything` of tests/support/deploying.py, by which tests see that all is gone again."""
    ec2, iam, scaling = (cloud.client(service) for service in ("ec2", "iam", "autoscaling"))
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    before = everything(cloud)
    run = Run.new()
    with launch() as box:
        box.await_state("running")
        image_id = ec2.create_image(InstanceId=box.instance_id, Name=NAME, NoReboot=True)["ImageId"]
        volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        interface = ec2.create_network_interface(SubnetId=box.describe()["SubnetId"])["NetworkInterface"]
        group = ec2.create_security_group(GroupName=NAME, Description=NAME)["GroupId"]
        ec2.create_key_pair(KeyName=NAME)
        data = {"ImageId": box.describe()["ImageId"], "InstanceType": "t3.micro"}
        ec2.create_launch_template(LaunchTemplateName=NAME, LaunchTemplateData=data)
        sizes = {"MinSize": 0, "MaxSize": 0, "AvailabilityZones": ["us-east-1a"]}
        template = {"LaunchTemplateName": NAME}
        scaling.create_auto_scaling_group(AutoScalingGroupName=NAME, LaunchTemplate=template, **sizes)
        iam.create_role(RoleName=NAME, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=NAME)
        now = everything(cloud)
        assert [kind for kind in now if set(now[kind]) <= set(before[kind])] == []
        scaling.delete_auto_scaling_group(AutoScalingGroupName=NAME)
        ec2.delete_launch_template(LaunchTemplateName=NAME)
        ec2.delete_key_pair(KeyName=NAME)
        ec2.delete_security_group(GroupId=group)
        ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
        ec2.delete_volume(VolumeId=volume)
        iam.delete_instance_profile(InstanceProfileName=NAME)
        iam.delete_role(RoleName=NAME)
        (image,) = ec2.describe_images(ImageIds=[image_id])["Images"]
        ec2.deregister_image(ImageId=image_id)
        for mapping in image["BlockDeviceMappings"]:
            if "SnapshotId" in mapping.get("Ebs", {}):
                ec2.delete_snapshot(SnapshotId=mapping["Ebs"]["SnapshotId"])
    run.forget()
    assert everything(cloud) == before
