"""Security groups in force, tried from another host and from this machine while the instances run."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from ec2_box import Box, Launch
from pytest_runs import supervisors_of

from nomad_testkit.ec2.handle import EmbeddedEc2

TCP, UDP = 7000, 7001
SILENCE = 1.0
"""Seconds without an answer after which a port counts as closed; only what is dropped is ever waited for."""

# Sends back what it is sent, over TCP and UDP; a stranger's first words over TCP are "here".
ECHO = f"""
import socket, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", {UDP}))
tcp = socket.create_server(("0.0.0.0", {TCP}))
def datagrams():
    while True:
        data, peer = udp.recvfrom(100)
        udp.sendto(data, peer)
def serve(connection):
    connection.sendall(b"here")
    while data := connection.recv(100):
        connection.sendall(data)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    threading.Thread(target=serve, args=(tcp.accept()[0],), daemon=True).start()
"""
# Prints what answers, or `nothing`.
ASK = """
import socket, sys
kind, address, port, seconds = sys.argv[1:]
link = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
link.settimeout(float(seconds))
try:
    link.connect((address, int(port)))
    link.send(b"here")
    print(link.recv(4).decode())
except TimeoutError:
    print("nothing")
"""


@dataclass(frozen=True)
class Yard:
    """Two hosts: one whose group is opened and closed, and another that tries to reach it."""

    web: Box
    other: Box
    group: str
    """The group that only `web` has."""
    others: str
    """The group that only `other` has."""
    ssh: str
    """The group that lets this machine log in, and nobody do anything else."""

    @property
    def api(self) -> Any:
        """The API's client."""
        return self.web.api

    @contextmanager
    def rule(self, way: str = "ingress", group: str | None = None, **permission: Any) -> Iterator[None]:
        """Have one more rule in a group, `web`'s own unless another is named."""
        asked = {"GroupId": group or self.group, "IpPermissions": [permission]}
        getattr(self.api, f"authorize_security_group_{way}")(**asked)
        try:
            yield
        finally:
            getattr(self.api, f"revoke_security_group_{way}")(**asked)

    @contextmanager
    def groups(self, box: Box, *groups: str) -> Iterator[None]:
        """Have a host in other groups."""
        before = [group["GroupId"] for group in box.describe()["SecurityGroups"]]
        self.api.modify_instance_attribute(InstanceId=box.instance_id, Groups=list(groups))
        try:
            yield
        finally:
            self.api.modify_instance_attribute(InstanceId=box.instance_id, Groups=before)

    def from_machine(self, kind: str = "tcp", seconds: float = 20) -> str:
        """Ask `web` from this machine; gives the answer, or `nothing`."""
        port = TCP if kind == "tcp" else UDP
        asked = ["python3", "-c", ASK, kind, self.web.address, str(port), str(seconds)]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def from_other(self, kind: str = "tcp", seconds: float = 20) -> str:
        """Ask `web` from the other host."""
        return ask(self.other, kind, self.web.private_ip, TCP if kind == "tcp" else UDP, seconds)

    def pings(self, *options: str) -> bool:
        """Whether `web` answers the other host's echo request."""
        command = shlex.join(["ping", "-c", "1", "-W", "1", *options, self.web.private_ip])
        return self.other.run(f"{command} >/dev/null && echo yes || echo no").strip() == "yes"


def ask(box: Box, kind: str, address: str, port: int, seconds: float = 20) -> str:
    """Ask a port from a host."""
    return box.run(shlex.join(["python3", "-c", ASK, kind, address, str(port), str(seconds)])).strip()


def tcp(port: int, *cidrs: str, last: int | None = None) -> dict[str, Any]:
    """Write a permission for TCP."""
    ranges = [{"CidrIp": cidr} for cidr in cidrs]
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": last or port, "IpRanges": ranges}


@pytest.fixture(scope="module")
def yard(cloud: EmbeddedEc2, launch: Launch) -> Iterator[Yard]:
    """Boot the hosts, closed, and open SSH when they run."""
    api = cloud.client("ec2")
    group, others, ssh = (
        str(api.create_security_group(GroupName=name, Description=name)["GroupId"]) for name in ("web", "others", "ssh")
    )
    api.authorize_security_group_ingress(GroupId=ssh, IpPermissions=[tcp(22, f"{cloud.machine_address}/32")])
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    api.revoke_security_group_egress(GroupId=ssh, IpPermissions=everything)
    with launch(SecurityGroupIds=[group]) as web, launch(SecurityGroupIds=[others]) as other:
        for box, own in ((web, group), (other, others)):
            box.await_status_ok()  # status checks come from below, whatever the groups say
            with pytest.raises(TimeoutError):
                socket.create_connection((box.address, 22), timeout=SILENCE)
            api.modify_instance_attribute(InstanceId=box.instance_id, Groups=[own, ssh])
            box.run(f"systemd-run --quiet --unit=echo python3 -c {shlex.quote(ECHO)}")
            box.run(f"until ss -Hltn | grep -q :{TCP}; do :; done")
        yield Yard(web, other, group, others, ssh)
    for each in (group, others, ssh):
        api.delete_security_group(GroupId=each)


def test_nothing_comes_in_where_no_rule_lets_it(yard: Yard) -> None:
    for kind in ("tcp", "udp"):
        assert yard.from_machine(kind, SILENCE) == "nothing"
        assert yard.from_other(kind, SILENCE) == "nothing"
    assert not yard.pings()


def test_a_block_of_addresses(yard: Yard, cloud: EmbeddedEc2) -> None:
    with yard.rule(**tcp(TCP, f"{cloud.machine_address}/32")):
        assert yard.from_machine() == "here"
        assert yard.from_other(seconds=SILENCE) == "nothing"
    assert yard.from_machine(seconds=SILENCE) == "nothing"
    with yard.rule(**tcp(TCP - 5, f"{yard.other.private_ip}/32", last=TCP + 5)):
        assert yard.from_other() == "here"
        assert yard.from_other("udp", SILENCE) == "nothing"
        assert yard.from_machine(seconds=SILENCE) == "nothing"
    with yard.rule(**tcp(TCP + 1, "0.0.0.0/0")):
        assert yard.from_other(seconds=SILENCE) == "nothing"
    with yard.rule(IpProtocol="-1", IpRanges=[{"CidrIp": "0.0.0.0/0"}]):
        assert yard.from_other() == yard.from_machine() == yard.from_other("udp") == "here"
        assert yard.pings()


def test_a_group_stands_for_its_members(yard: Yard) -> None:
    pairs = [{"GroupId": yard.others}]
    with yard.rule(IpProtocol="tcp", FromPort=TCP, ToPort=TCP, UserIdGroupPairs=pairs):
        assert yard.from_other() == "here"
        assert yard.from_machine(seconds=SILENCE) == "nothing"
        with yard.groups(yard.other, yard.ssh):
            assert ask(yard.other, "tcp", yard.web.private_ip, TCP, SILENCE) == "nothing"
        assert yard.from_other() == "here"
        (nic,) = yard.other.describe()["NetworkInterfaces"]
        other_nic = nic["NetworkInterfaceId"]
        yard.api.modify_network_interface_attribute(NetworkInterfaceId=other_nic, Groups=[yard.ssh])
        assert yard.from_other(seconds=SILENCE) == "nothing"
        yard.api.modify_network_interface_attribute(NetworkInterfaceId=other_nic, Groups=[yard.others, yard.ssh])
        assert yard.from_other() == "here"


def test_a_group_that_lets_in_itself(yard: Yard) -> None:
    with yard.rule(IpProtocol="-1", UserIdGroupPairs=[{"GroupId": yard.group}]):
        assert yard.from_other(seconds=SILENCE) == "nothing"
        with yard.groups(yard.other, yard.group, yard.others, yard.ssh):
            assert yard.from_other() == "here"


def test_udp(yard: Yard) -> None:
    with yard.rule(IpProtocol="udp", FromPort=UDP, ToPort=UDP, IpRanges=[{"CidrIp": "0.0.0.0/0"}]):
        assert yard.from_other("udp") == yard.from_machine("udp") == "here"
        assert yard.from_other(seconds=SILENCE) == "nothing"


def test_icmp_by_type(yard: Yard) -> None:
    anywhere = [{"CidrIp": "0.0.0.0/0"}]
    with yard.rule(IpProtocol="icmp", FromPort=13, ToPort=-1, IpRanges=anywhere):
        assert not yard.pings()
    with yard.rule(IpProtocol="icmp", FromPort=8, ToPort=0, IpRanges=anywhere):
        assert yard.pings()
        assert yard.from_other(seconds=SILENCE) == "nothing"


def test_a_connection_outlives_its_rule(yard: Yard, cloud: EmbeddedEc2) -> None:
    with yard.rule(**tcp(TCP, f"{cloud.machine_address}/32")):
        connection = socket.create_connection((yard.web.address, TCP), timeout=20)
        assert connection.recv(4) == b"here"
    with connection:
        assert yard.from_machine(seconds=SILENCE) == "nothing"
        connection.sendall(b"still")
        assert connection.recv(5) == b"still"


def test_what_goes_out_is_filtered_too(yard: Yard, cloud: EmbeddedEc2) -> None:
    web, other = yard.web, yard.other
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    metadata = "curl -s -o /dev/null -w '%{http_code}' --max-time 20 http://169.254.169.254/latest/meta-data/"
    aws = "curl -s -o /dev/null -w '%{http_code}' --max-time 2 https://ec2.us-east-1.amazonaws.com/ || echo nothing"
    with yard.rule(group=yard.others, **tcp(TCP, "0.0.0.0/0")):
        assert ask(web, "tcp", other.private_ip, TCP) == "here"
        assert "nothing" not in web.run(aws)
        yard.api.revoke_security_group_egress(GroupId=yard.group, IpPermissions=everything)
        try:
            assert ask(web, "tcp", other.private_ip, TCP, SILENCE) == "nothing"
            assert ask(web, "tcp", cloud.machine_address, TCP, SILENCE) == "nothing"
            assert web.run(aws).endswith("nothing\n")
            # Answers need no rule, and metadata and DNS are never filtered.
            with yard.rule(**tcp(TCP, "0.0.0.0/0")):
                assert yard.from_other() == yard.from_machine() == "here"
            assert web.run(metadata) in ("200", "401")
            assert web.run("getent hosts ec2.us-east-1.amazonaws.com").split()[0] == "172.31.255.1"
            pairs = [{"GroupId": yard.others}]
            with yard.rule("egress", IpProtocol="tcp", FromPort=TCP, ToPort=TCP, UserIdGroupPairs=pairs):
                assert ask(web, "tcp", other.private_ip, TCP) == "here"
                assert ask(web, "tcp", other.private_ip, 22, SILENCE) == "nothing"
        finally:
            yard.api.authorize_security_group_egress(GroupId=yard.group, IpPermissions=everything)
        assert ask(web, "tcp", other.private_ip, TCP) == "here"


def test_the_machine_has_no_rules_of_it(yard: Yard, cloud: EmbeddedEc2) -> None:
    def tables(*where: str) -> str:
        command = [*where, "nft", "list", "tables"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    inside = ("nsenter", "--net", f"--target={supervisors_of(cloud.warden_pid)[-1]}")
    assert "table ip security_groups" in tables(*inside)  # so this is what to look for
    assert "security_groups" not in tables()
