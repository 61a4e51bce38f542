from __future__ import annotations

import struct

import pytest

from nomad_testkit.ec2.machines import isolation
from nomad_testkit.ec2.machines.isolation import FIRST_BASE, HOSTS_OF_A_CLOUD, IDS, IdPool
from nomad_testkit.ec2.vpc.network import MOST_CLOUDS
from nomad_testkit.errors import Ec2Error

BASE = FIRST_BASE + 3 * IDS


def test_no_two_hosts_of_a_machine_share_an_id() -> None:
    bases = [IdPool(index).take() for index in range(MOST_CLOUDS)]
    pool = IdPool(0)
    bases += [pool.take() for _ in range(HOSTS_OF_A_CLOUD)][1:]
    assert len(set(bases)) == len(bases)
    assert all(base % IDS == 0 for base in bases)
    assert min(bases) >= 0x80000  # systemd(7)'s range for containers
    assert IdPool(MOST_CLOUDS - 1).take() + HOSTS_OF_A_CLOUD * IDS <= 0x6FFFFFFF + 1


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, False),
        (1000, False),
        (FIRST_BASE - 1, False),
        (FIRST_BASE, True),
        (IdPool(MOST_CLOUDS - 1).take(), True),
        (0x6FFFFFFF, True),
        (0x70000000, False),
    ],
)
def test_ids_of_hosts_are_known(number: int, expected: bool) -> None:
    assert isolation.is_of_a_host(number) is expected


def test_a_range_is_given_again_when_its_host_is_gone() -> None:
    pool = IdPool(2)
    taken = [pool.take() for _ in range(HOSTS_OF_A_CLOUD)]
    with pytest.raises(Ec2Error, match=f"user ids for {HOSTS_OF_A_CLOUD} hosts, and all are taken"):
        pool.take()
    pool.give_back(taken[7])
    assert pool.take() == taken[7]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, 0), (1000, 1000), (BASE - 1, BASE - 1), (BASE, 0), (BASE + 1000, 1000), (BASE + IDS, BASE + IDS)],
)
def test_only_ids_of_the_range_change(number: int, expected: int) -> None:
    assert isolation._outside(number, BASE) == expected


def test_a_file_capability_of_a_host_is_everybodys_afterwards() -> None:
    bits = struct.pack("<4I", 1 << 13, 0, 0, 0)
    of_the_host = struct.pack("<I", 0x03000001) + bits + struct.pack("<I", BASE)
    everybodys = struct.pack("<I", 0x02000001) + bits
    assert isolation._capability(of_the_host, BASE) == everybodys
    assert isolation._capability(everybodys, BASE) == everybodys
    another = struct.pack("<I", 0x03000001) + bits + struct.pack("<I", BASE + IDS)
    assert isolation._capability(another, BASE) == another


def test_access_control_lists_name_the_same_users() -> None:
    def acl(user: int, group: int) -> bytes:
        nobody = 0xFFFFFFFF
        entries = [(1, 7, nobody), (2, 5, user), (4, 5, nobody), (8, 4, group), (0x10, 5, nobody), (0x20, 0, nobody)]
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

    assert isolation._acl(acl(BASE + 1000, BASE + 4), BASE) == acl(1000, 4)
