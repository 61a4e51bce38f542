"""A snapshot that is damaged is refused before it is sent."""

from __future__ import annotations

import json

import pytest
from snapshots import snapshot

from nomad_testkit.cluster.clients.snapshots import check_snapshot
from nomad_testkit.errors import UsageError


def test_takes_one_that_is_whole() -> None:
    check_snapshot(snapshot(), "consul")


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", "0 bytes is damaged"),
        (b"no snapshot", "11 bytes is damaged"),
        (snapshot()[:-20], "is damaged"),
        (snapshot(b"other"), "state.bin has another SHA-256 sum"),
        (snapshot(without="state.bin"), "state.bin has another SHA-256 sum"),
        (snapshot(without="SHA256SUMS"), r"has the files \['meta.json', 'state.bin'\]"),
    ],
)
def test_refuses_one_that_is_damaged(damaged: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        check_snapshot(damaged, "nomad")
    assert "expected what save_snapshot of a nomad client gave" in str(caught.value)


def flipped(number: int) -> bytes:
    whole = bytearray(snapshot())
    whole[number] ^= 0x10
    return bytes(whole)


@pytest.mark.parametrize("number", [0, 1, 2, 40, len(snapshot()) // 2, -6, -1])
def test_refuses_one_with_a_flipped_bit(number: int) -> None:
    with pytest.raises(UsageError, match="is damaged"):
        check_snapshot(flipped(number), "consul")


def test_refuses_that_of_the_other_agent() -> None:
    def of(*addresses: str) -> bytes:
        servers = [{"Suffrage": 0, "ID": "x", "Address": address} for address in addresses]
        return snapshot(meta=json.dumps({"Configuration": {"Servers": servers}}).encode())

    check_snapshot(of("172.31.0.1:8300", "172.31.0.2:8300"), "consul")
    check_snapshot(of("172.31.0.1:14647"), "nomad")
    with pytest.raises(UsageError, match=r"is one of nomad, of its servers 172\.31\.0\.1:4647; expected"):
        check_snapshot(of("172.31.0.1:4647"), "consul")
