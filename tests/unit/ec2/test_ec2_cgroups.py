from __future__ import annotations

from pathlib import Path

import pytest

from nomad_testkit.ec2.machines.cgroups import CgroupTree, Hierarchy, parse_hierarchies
from nomad_testkit.wait import Deadline

MIXED = """\
22 1 0:20 / /sys/fs/cgroup rw - tmpfs tmpfs rw
23 22 0:21 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
24 22 0:22 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
25 22 0:23 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
26 22 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
MIXED_OWN = "4:memory:/box/a\n3:cpu,cpuacct:/\n2:name=systemd:/\n0::/\n"


def test_version_1_and_a_hybrid_version_2() -> None:
    assert parse_hierarchies(MIXED, MIXED_OWN) == [
        Hierarchy(Path("/sys/fs/cgroup/memory/box/a"), False),
        Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), False),
        Hierarchy(Path("/sys/fs/cgroup/systemd"), False),
        Hierarchy(Path("/sys/fs/cgroup/unified"), True),
    ]


def test_version_2_alone() -> None:
    mounts = "30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    own = "0::/system.slice/run-u1.scope\n"
    assert parse_hierarchies(mounts, own) == [Hierarchy(Path("/sys/fs/cgroup/system.slice/run-u1.scope"), True)]


def test_a_container_that_sees_only_its_part_of_a_hierarchy() -> None:
    mounts = "30 22 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    assert parse_hierarchies(mounts, "5:memory:/docker/abc/sub\n") == [
        Hierarchy(Path("/sys/fs/cgroup/memory/sub"), False)
    ]


def test_a_controller_that_is_mounted_twice_counts_once() -> None:
    line = "23 22 0:21 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    assert len(parse_hierarchies(line + line, "8:pids:/\n")) == 1


def test_tree_of_ordinary_folders(tmp_path: Path) -> None:
    (tmp_path / "cpuset.cpus").write_text("0-1\n")
    (tmp_path / "memory.usage_in_bytes").write_text("1\n")
    tree = CgroupTree("nomad-testkit-0", [Hierarchy(tmp_path, False)])
    tree.create()
    parent = tmp_path / "nomad-testkit-0"
    (parent / "memory.usage_in_bytes").write_text("4096\n")
    (parent / "cpuacct.usage").write_text("2500000000\n")
    assert tree.add("i-1") == [parent / "i-1" / "cgroup.procs"]
    assert (tree.memory_bytes(), tree.cpu_seconds()) == (4096, 2.5)
    assert CgroupTree.of_parents(tree.describe()).parents == {parent: False}
    (parent / "memory.usage_in_bytes").unlink()  # real ones go with their cgroup
    (parent / "cpuacct.usage").unlink()
    (parent / "i-1" / "system.slice").mkdir()
    tree.destroy(Deadline.after(1))
    assert not parent.exists()


def host_tree(tmp_path: Path, *files: str) -> tuple[CgroupTree, Path]:
    tree = CgroupTree("nomad-testkit-0", [Hierarchy(tmp_path, False)])
    tree.create()
    host = tmp_path / "nomad-testkit-0/i-1"
    host.mkdir()
    for name in files:
        (host / name).write_text("")
    return tree, host


def test_a_host_divides_its_cgroup_but_does_not_lift_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, host = host_tree(tmp_path, "cgroup.procs", "tasks", "memory.limit_in_bytes", "devices.deny")
    given = []
    monkeypatch.setattr("os.chown", lambda path, owner, group: given.append((path, owner, group)))
    tree.add("i-1", owner=7)
    assert given == [(path, 7, 7) for path in (host, host / "cgroup.procs", host / "tasks")]
    assert (host / "devices.deny").read_text() == ""


def test_a_host_opens_no_device_of_the_machine(tmp_path: Path) -> None:
    tree, host = host_tree(tmp_path, "devices.deny", "devices.allow")
    tree.add("i-1", devices=False)
    assert (host / "devices.deny").read_text() == "a"
    assert (host / "devices.allow").read_text().startswith("c ")


def test_processes_below_a_host_are_its_own(tmp_path: Path) -> None:
    tree, host = host_tree(tmp_path, "cgroup.procs")
    (host / "cgroup.procs").write_text("7\n")
    (host / "payload").mkdir()
    (host / "payload/cgroup.procs").write_text("9\n8\n")
    assert sorted(tree.pids("i-1")) == [7, 8, 9]


def test_a_frozen_host_goes_on_whatever_happens(tmp_path: Path) -> None:
    tree, host = host_tree(tmp_path, "freezer.state")
    seen = []

    def copy() -> None:
        with tree.frozen("i-1"):
            seen.append((host / "freezer.state").read_text())
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        copy()
    assert seen == ["FROZEN"]
    assert (host / "freezer.state").read_text() == "THAWED"


def test_a_host_without_a_cgroup_stands_still_already(tmp_path: Path) -> None:
    tree = CgroupTree("nomad-testkit-0", [Hierarchy(tmp_path, False)])
    with tree.frozen("i-1"):
        pass
