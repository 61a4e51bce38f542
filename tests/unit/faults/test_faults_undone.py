"""Faults: refused before anything is done, undone in reverse whatever happens, and told where they cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from fault_lab import cluster_of, recording_hosts, refused
from recording_host import RecordingHost

from nomad_testkit.errors import FaultError, HostError, UsageError
from nomad_testkit.faults import Fault, Faults
from nomad_testkit.faults.book import FOLDER
from nomad_testkit.faults.repairs import Repairs
from nomad_testkit.ssh import CommandResult


@pytest.fixture
def hosts() -> list[RecordingHost]:
    return recording_hosts(servers=3, clients=3)


@pytest.fixture
def faults(hosts: list[RecordingHost], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Faults:
    monkeypatch.setattr("nomad_testkit.faults.repairs.gone", lambda *_: False)
    return Faults(cluster_of(hosts, tmp_path))


THROTTLED = ClientError({"Error": {"Code": "Throttling", "Message": "slower"}}, "StartInstances")


def raising(error: Exception) -> Callable[..., None]:
    """Make a function that raises an error."""

    def run(*_: object) -> None:
        raise error

    return run


def test_everything_is_undone_in_reverse_whatever_fails_and_that_is_left_for_another_try() -> None:
    done: list[str] = []
    broken = True

    def second() -> None:
        if broken:
            raise HostError("no route")
        done.append("second")

    repairs = Repairs()
    repairs.add("do the first", lambda: done.append("first"))
    repairs.add("do the second", second)
    repairs.add("do the third", lambda: done.append("third"))
    assert repairs.run() == ["do the second: no route"]
    assert done == ["third", "first"]
    broken = False
    assert repairs.run() == []
    assert (done, repairs.run()) == (["third", "first", "second"], [])
    repairs.add("ask AWS", raising(THROTTLED))
    repairs.add("reach AWS", raising(EndpointConnectionError(endpoint_url="http://127.0.0.1:1")))
    repairs.add("have a bug", raising(KeyError("name")))
    assert repairs.run() == [
        "have a bug: KeyError: 'name'",
        'reach AWS: EndpointConnectionError: Could not connect to the endpoint URL: "http://127.0.0.1:1"',
        "ask AWS: Throttling: slower",
    ]


def test_what_cannot_be_undone_is_an_error_or_a_note_of_the_one_before() -> None:
    def make(repairs: Repairs) -> None:
        repairs.add("mend it", raising(HostError("no route")))

    with pytest.raises(FaultError, match="could not be undone:\n- mend it: no route"), Fault("break it", make):
        pass
    with pytest.raises(ZeroDivisionError) as caught, Fault("break it", make):
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["then what is left of a fault could not be undone:\n- mend it: no route"]


@pytest.mark.parametrize(("error", "why"), [(HostError("no route"), "no route"), (THROTTLED, "Throttling: slower")])
def test_what_was_made_is_undone_where_the_rest_cannot_be(error: Exception, why: str) -> None:
    undone: list[str] = []

    def make(repairs: Repairs) -> None:
        repairs.add("mend it", lambda: undone.append("mended"))
        raise error

    refused(Fault("break it", make), f"could not break it: {why}")
    assert undone == ["mended"]


def test_a_fault_is_for_one_block() -> None:
    fault = Fault("break it", lambda repairs: None)
    with pytest.raises(UsageError, match="use it by `with`"):
        _ = fault.seconds
    with fault:
        assert fault.seconds >= 0
    with pytest.raises(UsageError, match="make a new one"):
        fault.__enter__()


def test_a_partition_is_a_table_of_its_own_on_each_side(faults: Faults, hosts: list[RecordingHost]) -> None:
    with faults.partition(hosts[:1], hosts[1:3]):
        assert [host for host in hosts if any("drop" in line for line in host.commands)] == hosts[:3]
        assert "ip saddr { 172.31.0.2, 172.31.0.3 } drop" in hosts[0].commands[-1]
        assert "ip saddr { 172.31.0.1 } drop" in hosts[1].commands[-1]
        table = hosts[0].commands[-1].split("table inet ")[1].split()[0]
    for host in hosts[:3]:
        assert host.commands[-1].startswith(f"nft delete table inet {table} ")
    with faults.partition(hosts[:1], hosts[1:2], one_way=True):
        assert "ip saddr { 172.31.0.1 } drop" in hosts[1].commands[-1]
        assert hosts[0].commands[-1].startswith("nft delete")


def test_half_a_partition_is_undone_and_all_that_fails_is_told(faults: Faults, hosts: list[RecordingHost]) -> None:
    hosts[1].failing = "nft -f"
    refused(faults.isolate(hosts[0]), "could not partition")
    assert hosts[0].commands[-1].startswith("nft delete table")
    hosts[2].failing = "nft -f"
    error = refused(faults.isolate(hosts[0]), r"172\.31\.0\.2")
    assert "172.31.0.3" in str(error.__notes__)


def test_a_host_without_nftables_is_told_before_anything_is_done(faults: Faults, hosts: list[RecordingHost]) -> None:
    hosts[2].failing = "nft list tables"
    refused(faults.isolate(hosts[0]), r"i-3 .*install the package nftables")
    assert not any("drop" in line for host in hosts for line in host.commands)


def test_a_table_that_stays_is_told_and_tried_again_at_the_end(faults: Faults, hosts: list[RecordingHost]) -> None:
    fault = faults.block_port(4647, hosts[0])

    def listed_for_ever() -> None:
        with fault:
            made = hosts[0].commands[-1]
            assert 'iifname != "lo" meta l4proto { tcp, udp } th dport 4647 drop' in made
            table = made.split("table inet ")[1].split()[0]
            hosts[0].answers["nft delete"] = f"table inet {table}\ntable inet another\n"

    with pytest.raises(FaultError, match="nft still lists table inet nomad_testkit_fault_"):
        listed_for_ever()
    hosts[0].answers.clear()
    before = len(hosts[0].commands)
    faults.undo()
    assert [line.split()[:2] for line in hosts[0].commands[before:]] == [["nft", "delete"]]


WRONG: dict[str, tuple[Callable[[Any, list[RecordingHost]], Fault], str]] = {
    "foreign": (lambda f, h: f.kill("nomad", RecordingHost(9, "servers")), r"i-9 .*not of cluster nt-1, whose hosts"),
    "both sides": (lambda f, h: f.partition(h[:2], h[1:3]), "a host on both sides: i-2 is in"),
    "no host": (lambda f, h: f.partition([], h[:1]), "a fault needs a host"),
    "a name": (lambda f, h: f.kill("nomad", "i-11"), "expected a Host of cluster nt-1, found 'i-11'; did you mean i-1"),
    "a list": (lambda f, h: f.isolate(h[:2]), r"expected a Host of cluster nt-1, found \[.*by \*hosts"),
    "all": (lambda f, h: f.isolate(*h), "expected hosts to leave others in nt-1, found all"),
    "agent": (lambda f, h: f.stop("vault", h[0]), "agent: expected consul or nomad, found 'vault'"),
    "near agent": (lambda f, h: f.freeze("nomda", h[0]), "found 'nomda'; did you mean nomad"),
    "respawn": (lambda f, h: f.kill("nomad", h[0], respawn="no"), "respawn: expected True or False, found 'no'"),
    "one way": (lambda f, h: f.partition(h[:1], h[1:2], one_way=1), "one_way: expected True or False, found 1"),
    "replaced": (lambda f, h: f.stop_instance(h[0], replaced=None), "replaced: expected True or False, found None"),
    "power": (lambda f, h: f.terminate_instance(h[0], power_cut="yes"), "power_cut: expected True or False"),
    "ssh": (lambda f, h: f.block_port(22, h[0]), "port 22 is that of SSH on i-1"),
    "port": (lambda f, h: f.block_port(70000, h[0]), "at most 65535, found 70000"),
    "named port": (lambda f, h: f.block_port("http", h[0]), "port: expected a number: at least 1 .*found 'http'"),
    "share": (lambda f, h: f.lose(30, h[0]), "at most 1, found 30"),
    "hardly": (lambda f, h: f.lose(0.0001, h[0]), "at least 0.001 and at most 1, found 0.0001"),
    "not a share": (lambda f, h: f.lose(float("nan"), h[0]), "found nan"),
    "rate": (lambda f, h: f.throttle(0, h[0]), "kilobytes a second: expected a number: at least 1, found 0"),
    "half a rate": (lambda f, h: f.throttle(1.5, h[0]), "expected a whole number, found 1.5"),
    "delay": (lambda f, h: f.delay(0, h[0]), "at least 0.001 s and at most 60 s, found 0"),
    "no delay": (lambda f, h: f.delay(0.0001, h[0]), "at least 0.001 s and at most 60 s, found 0.0001"),
    "true delay": (lambda f, h: f.delay(True, h[0]), "found True"),
    "folder": (
        lambda f, h: f.fill_disk(h[0], "var"),
        "folder: expected a folder's path that begins with /, found 'var'",
    ),
    "most": (lambda f, h: f.fill_disk(h[0], "/var", most=-1), "most: expected a number: at least 1 bytes, found -1"),
    "clock": (lambda f, h: f.shift_clock(0, h[0]), "expected 1 or more, or -1 or less"),
    "hardly a clock": (lambda f, h: f.shift_clock(0.4, h[0]), "expected a whole number of s, found 0.4"),
    "text clock": (lambda f, h: f.shift_clock("60", h[0]), "found '60'"),
    "endless clock": (lambda f, h: f.shift_clock(float("inf"), h[0]), "found inf"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_refused_and_nothing_is_done(name: str, faults: Faults, hosts: list[RecordingHost]) -> None:
    make, told = WRONG[name]
    with pytest.raises(UsageError, match=told):
        make(faults, hosts)
    assert [line for host in hosts for line in host.commands] == []


def test_only_an_agent_that_runs_can_fail(faults: Faults, hosts: list[RecordingHost]) -> None:
    hosts[0].answers["systemctl show"] = "ActiveState=inactive\nSubState=dead\nResult=success\n\n1.00 1.00\n"
    refused(faults.stop("nomad", hosts[0]), r"nomad is inactive \(dead\); only an active unit")
    assert not any(line.startswith("systemctl stop") for line in hosts[0].commands)


@pytest.mark.parametrize("folder", ["/", "/var"])
def test_a_disk_that_would_take_too_much_is_refused(folder: str, faults: Faults, hosts: list[RecordingHost]) -> None:
    hosts[0].answers["stat -f"] = f"{50 * 2**18} 4096\n"  # 50 GiB
    hosts[0].answers["du -sx"] = f"{2**30} {folder}\n"
    refused(faults.fill_disk(hosts[0], folder), f"51200 MiB are free in {folder}, and at most 1024 MiB")
    assert not any("fallocate" in line or "mount" in line for line in hosts[0].commands)
    hosts[0].answers["stat -f"] = "1 4096\n"  # so that there is something to be seen
    refused(faults.fill_disk(hosts[0], folder), "4096 bytes are still free")
    assert any("fallocate" in line for line in hosts[0].commands)


def test_a_container_has_no_clock(faults: Faults, hosts: list[RecordingHost]) -> None:
    for answer, reason in {"systemd-nspawn\n": r"a container \(systemd-nspawn\)", "": "it printed nothing"}.items():
        hosts[0].answers["systemd-detect-virt"] = answer
        refused(faults.shift_clock(60, hosts[0]), reason)
    assert not any("date" in line for line in hosts[0].commands)
    hosts[1].answers = {"systemd-detect-virt": "none\n", "date +%s.%N": f"{time.time()}\n"}
    with faults.shift_clock(60, hosts[1]):
        assert "date -u -s @$(($(date +%s) + 60))" in hosts[1].commands


NETEM = "nomad-testkit: netem works\n"


def test_netem_delays_where_the_kernel_has_it(faults: Faults, hosts: list[RecordingHost]) -> None:
    hosts[0].answers["tc qdisc show"] = NETEM
    with faults.delay(0.1, hosts[0]):
        looked, made = hosts[0].commands
        assert "unshare --net sh -c 'tc qdisc add dev lo" in looked
        assert "netem delay 100ms" in made
        assert made.count("flowid") == len(hosts) - 1
        assert "match ip dst 172.31.0.1/32" not in made
    assert "tc qdisc del dev $dev root" in hosts[0].commands[-1]


def test_a_program_delays_where_the_kernel_has_no_netem(faults: Faults, hosts: list[RecordingHost]) -> None:
    with faults.delay(0.1, hosts[0]):
        _, put, started, sent = hosts[0].commands
        assert f"python3 {put.removeprefix('put ')} " in started
        assert "ip daddr { 172.31.0.2, 172.31.0.3, 172.31.0.4, 172.31.0.5, 172.31.0.6 } meta mark" in sent
        table = sent.split("table ip ")[1].split()[0]
        # Else nobody would see that it is there.
        hosts[0].answers["tc qdisc show"] = f"table ip {table}\n"
        refused(faults.delay(1, hosts[0]), f"delays packets already .table ip {table}")
        assert len(hosts[0].commands) == 5
    assert hosts[0].commands[-1].startswith(f"nft delete table ip {table} ")


@pytest.mark.parametrize("still", ["table ip {table}", "7: {device}: <POINTOPOINT>", "1: from all lookup {number}"])
def test_a_delay_that_stays_is_told(still: str, faults: Faults, hosts: list[RecordingHost]) -> None:
    def left_behind() -> None:
        with faults.delay(0.1, hosts[0]):
            *_, device, number, _, _, _, _ = hosts[0].commands[2].split(" || ")[0].split()
            table = hosts[0].commands[3].split("table ip ")[1].split()[0]
            hosts[0].answers["nft delete"] = still.format(device=device, number=number, table=table)

    with pytest.raises(FaultError, match=r"end the delay of packets on i-1 .*there is still"):
        left_behind()


def test_a_host_that_cannot_delay_packets_says_why(faults: Faults, hosts: list[RecordingHost]) -> None:
    hosts[0].failing = "dev=$(ip -o route get 172.31.0.2 "
    refused(faults.delay(0.1, hosts[0]), r"has no netem .*/dev/net/tun, does not start\. .*refused")
    assert hosts[0].commands[-1].startswith("nft delete table ip ")


def test_a_fault_is_on_disk_before_it_is_made(faults: Faults, hosts: list[RecordingHost], tmp_path: Path) -> None:
    books: list[str] = []
    run = hosts[0].run

    def looking(command: str, **how: Any) -> CommandResult:
        if command.startswith("nft -f"):
            books.extend(path.read_text() for path in (tmp_path / FOLDER).glob("*.jsonl"))
        return run(command, **how)

    hosts[0].run = looking  # type: ignore[method-assign]
    with faults.block_port(4647, hosts[0]):
        assert "remove nftables table" in books[0]
        for path in (tmp_path / FOLDER, *(tmp_path / FOLDER).iterdir()):
            assert path.stat().st_mode & 0o077 == 0
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_no_fault_is_made_that_nobody_could_undo(hosts: list[RecordingHost], tmp_path: Path) -> None:
    faults = Faults(cluster_of(hosts, tmp_path / "gone"))
    refused(faults.block_port(1, hosts[0]), "the folder of the run, is not there")
    assert not any("drop" in line for line in hosts[0].commands)
    assert not (tmp_path / "gone").exists()
