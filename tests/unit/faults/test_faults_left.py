"""What a killed process leaves of faults: on the disk before each is made, and undone from there by another one."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from fault_lab import cluster_of, recording_hosts, refused
from recording_host import RecordingHost

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.errors import FaultError
from nomad_testkit.faults import Fault, Faults
from nomad_testkit.faults.book import FOLDER, TURN, Book
from nomad_testkit.faults.left import require_undone, undo_left
from nomad_testkit.faults.repairs import UNDO, Repairs
from nomad_testkit.runs.locks import FileLock

ACTIVE = "ActiveState=active\nSubState=running\nResult=success\n\n1.00 1.00\n"


@pytest.fixture
def hosts() -> list[RecordingHost]:
    made = recording_hosts(servers=1, clients=2)
    for host in made:
        host.answers = {
            "systemctl show": ACTIVE,
            "stat -f": "1 1\n",
            "date +%s": "1.0\n",
            "sed": "T\n",
            "systemd-detect-virt": "none\n",
        }
    made[1].answers["tc qdisc show"] = "nomad-testkit: netem works\n"
    return made


@pytest.fixture
def cluster(hosts: list[RecordingHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = [host.instance for host in hosts]
    monkeypatch.setattr("nomad_testkit.cluster.discovery.instances", lambda *_, **__: found)
    monkeypatch.setattr("nomad_testkit.faults.left.instances", lambda *_: found)
    monkeypatch.setattr(Cluster, "refresh", lambda _: None)
    return cluster_of(hosts, tmp_path, MagicMock())


@pytest.fixture
def faults(cluster: Cluster) -> Faults:
    return Faults(cluster)


def die(cluster: Cluster) -> None:
    """Let go of a process's faults as the kernel does when it is killed."""
    book = Book.of(cluster)
    assert book._lock is not None
    book._lock.release()
    Book._of.clear()


def books(cluster: Cluster) -> list[Path]:
    return sorted((cluster.key_path.parent / FOLDER).glob("*.jsonl"))


KINDS: dict[str, Callable[[Faults, list[RecordingHost]], Fault]] = {
    "stop": lambda f, h: f.stop("consul", h[0]),
    "kill": lambda f, h: f.kill("nomad", h[0], respawn=True),
    "freeze": lambda f, h: f.freeze("nomad", h[0]),
    "reboot_instance": lambda f, h: f.reboot_instance(h[0]),
    "stop_instance": lambda f, h: f.stop_instance(h[0]),
    "terminate_instance": lambda f, h: f.terminate_instance(h[0]),
    "partition": lambda f, h: f.partition(h[:1], h[1:]),
    "isolate": lambda f, h: f.isolate(h[0]),
    "block_port": lambda f, h: f.block_port(4647, h[0]),
    "lose": lambda f, h: f.lose(0.5, h[0]),
    "throttle": lambda f, h: f.throttle(10, h[0]),
    "delay": lambda f, h: f.delay(0.1, h[0]),
    "delay by netem": lambda f, h: f.delay(0.1, h[1]),
    "fill_disk": lambda f, h: f.fill_disk(h[0], "/opt"),
    "shift_clock": lambda f, h: f.shift_clock(60, h[0]),
}


def test_every_fault_there_is_is_in_the_table() -> None:
    assert {name.split()[0] for name in KINDS} == {name for name in vars(Faults) if not name.startswith("_")} - {"undo"}


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_finds_what_undoes_it(
    kind: str, faults: Faults, hosts: list[RecordingHost], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nomad_testkit.faults.instances._await_states", lambda *_: None)
    monkeypatch.setattr("nomad_testkit.faults.instances._await_down", lambda *_: None)
    monkeypatch.setattr("nomad_testkit.faults.instances._groups", lambda *_: ["group"])
    with suppress(FaultError):  # such as a full disk that is none: it is about what is known by then
        KINDS[kind](faults, hosts)._make(Repairs())
    (book,) = books(cluster)
    entries = [json.loads(line) for line in book.read_text().splitlines()]
    assert {one["kind"] for one in entries} <= UNDO.keys()
    assert {state.state for state in undo_left(cluster)} == {"held"}
    assert books(cluster) == [book]
    die(cluster)
    ran: list[Any] = []
    for one in entries:
        name = one["kind"]
        run = partial(lambda name, _, on, **facts: ran.append((name, on, facts)), name)
        monkeypatch.setitem(UNDO, name, replace(UNDO[name], run=run))
    assert [(one.state, one.undo) for one in undo_left(cluster)] == [
        ("undone", one["facts"]["what"]) for one in reversed(entries)
    ]
    assert [(name, [host.instance_id for host in on], facts) for name, on, facts in ran] == [
        (one["kind"], one["facts"]["hosts"], one["facts"]["undo"]) for one in reversed(entries)
    ]
    assert list((cluster.key_path.parent / FOLDER).glob("*-*")) == []
    assert undo_left(cluster) == []


def test_the_undo_is_that_of_the_block(faults: Faults, hosts: list[RecordingHost], cluster: Cluster) -> None:
    fault = faults.block_port(4647, hosts[0])
    fault.__enter__()
    table = hosts[0].commands[-1].split("table inet ")[1].split()[0]
    die(cluster)
    hosts[0].commands.clear()
    assert [str(one) for one in undo_left(cluster)] == [
        f"undone, which a killed process had left: remove the nftables table {table} on i-1 (172.31.0.1)"
    ]
    assert hosts[0].commands == [f"nft delete table inet {table} 2>/dev/null; nft list tables"]


@pytest.mark.parametrize("books_of", [1, 2])
def test_what_others_need_is_undone_first_whatever_was_done_first(
    books_of: int, hosts: list[RecordingHost], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [
        "make node eligible",
        "remove netem",
        "start agent",
        "start instances",
        "thaw agent",
        "remove nftables table",
    ]
    for number, kind in enumerate(kinds):
        monkeypatch.setitem(UNDO, kind, replace(UNDO[kind], run=lambda *_: None))
        Repairs().plan(kind, UNDO[kind], cluster, hosts[:1])
        if books_of == 2 and number == 2:
            die(cluster)
            os.utime(books(cluster)[0], (1, 1))  # clearly before the other one
    die(cluster)
    assert len(books(cluster)) == books_of
    assert ", ".join(one.undo for one in undo_left(cluster)) == (
        "start instances, remove nftables table, remove netem, thaw agent, start agent, make node eligible"
    )
    assert books(cluster) == []


def test_the_book_goes_with_the_last_fault(faults: Faults, hosts: list[RecordingHost], cluster: Cluster) -> None:
    with faults.block_port(4647, hosts[0]):
        with faults.block_port(4648, hosts[1]):
            assert len(books(cluster)) == 1
        assert len(books(cluster)) == 1
    assert list((cluster.key_path.parent / FOLDER).iterdir()) == []


def test_a_run_without_a_folder_gets_no_fault(faults: Faults, hosts: list[RecordingHost], cluster: Cluster) -> None:
    folder = cluster.key_path.parent
    folder.rename(folder.with_name("elsewhere"))
    refused(faults.block_port(4647, hosts[0]), f"{folder}, the folder of the run, is not there")
    assert hosts[0].commands == ["nft list tables"]  # whether there is nft at all


@pytest.fixture
def blocked(faults: Faults, hosts: list[RecordingHost], cluster: Cluster) -> RecordingHost:
    """A host with a port that a killed process has left blocked."""
    faults.block_port(4647, hosts[0]).__enter__()
    die(cluster)
    return hosts[0]


def test_what_fails_stays_for_another_try(faults: Faults, hosts: list[RecordingHost], cluster: Cluster) -> None:
    for host in hosts[:2]:
        faults.block_port(4647, host).__enter__()
    die(cluster)
    hosts[1].failing = "nft delete"
    with pytest.raises(FaultError, match=r"has left faults in nt-1, which cannot be undone:\n- remove the .* on i-2"):
        require_undone(cluster)
    assert hosts[0].commands[-1].startswith("nft delete")
    hosts[1].failing = "nothing"
    assert [(one.state, "i-2" in one.undo) for one in require_undone(cluster)] == [("undone", True)]
    assert books(cluster) == []


def test_a_host_that_is_gone_needs_no_undo(
    blocked: RecordingHost, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked.failing = "nft"
    monkeypatch.setattr("nomad_testkit.cluster.discovery.instances", lambda *_, **__: [])
    assert [one.state for one in undo_left(cluster)] == ["undone"]


@pytest.mark.usefixtures("blocked")
def test_an_undo_of_another_version_is_left_and_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(UNDO, "remove nftables table")
    (found,) = undo_left(cluster)
    assert (found.state, "does not know 'remove nftables table'" in found.why) == ("left", True)
    assert len(books(cluster)) == 1


def test_nothing_is_undone_in_a_run_that_is_to_be_destroyed(blocked: RecordingHost, cluster: Cluster) -> None:
    blocked.commands.clear()
    assert [one.state for one in undo_left(cluster, only_name=True)] == ["left"]
    assert (blocked.commands, len(books(cluster))) == ([], 1)


@pytest.mark.usefixtures("blocked")
def test_of_several_that_look_at_once_only_one_undoes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, go_on, undone = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> None:
        under_way.set()
        assert go_on.wait(60)
        undone.set()

    name = "remove nftables table"
    monkeypatch.setitem(UNDO, name, replace(UNDO[name], run=slow))
    first = threading.Thread(target=undo_left, args=(cluster,))
    first.start()
    assert under_way.wait(60)
    seen: list[bool] = []

    def look() -> None:
        undo_left(cluster)
        seen.append(undone.is_set())

    second = threading.Thread(target=look)
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert seen == [True]


@pytest.mark.parametrize("state", ["held", "left", "no lock", "no turn", "forgotten"])
def test_looking_makes_no_file(
    state: str, faults: Faults, hosts: list[RecordingHost], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.block_port(4647, hosts[0]).__enter__()
    folder = cluster.key_path.parent
    if state != "held":
        die(cluster)
    if state == "no lock":
        books(cluster)[0].with_suffix(".lock").unlink()
    if state == "no turn":
        (folder / TURN).unlink()
    if state == "forgotten":

        def forgotten(*_: Any) -> None:  # after it was seen that there are books
            shutil.rmtree(folder)
            raise FileNotFoundError

        monkeypatch.setattr(FileLock, "acquire", forgotten)
    before = set(folder.rglob("*"))
    found = undo_left(cluster, only_name=True)
    assert [one.state for one in found] == {"held": ["held"], "forgotten": []}.get(state, ["left"])
    assert set(folder.rglob("*")) == (set() if state == "forgotten" else before)
    assert folder.exists() == (state != "forgotten")
