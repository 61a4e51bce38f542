from __future__ import annotations

import pytest

from nomad_testkit.ec2.vpc.network import CloudAddresses, HostLink, claim


@pytest.mark.parametrize(
    ("index", "block", "endpoint", "machine"),
    [
        (0, "127.31.0.0/16", "http://127.31.255.1", "169.254.253.1"),
        (1, "127.32.0.0/16", "http://127.32.255.1", "169.254.253.5"),
        (31, "127.62.0.0/16", "http://127.62.255.1", "169.254.253.125"),
    ],
)
def test_addresses_of_clouds(index: int, block: str, endpoint: str, machine: str) -> None:
    addresses = CloudAddresses(index)
    assert str(addresses.public_block) == block
    assert addresses.endpoint_url == endpoint
    assert addresses.machine_address == machine


def test_public_address_keeps_the_host_part() -> None:
    assert CloudAddresses(2).public("172.31.47.200") == "127.33.47.200"


def test_link_names_fit_the_kernel() -> None:
    link = HostLink("172.31.255.254", "172.31.240.0/20", "02:00:00:00:00:01")
    assert link.device == "eni-255-254"
    assert len(link.device) <= 15


def test_an_index_is_claimed_until_its_socket_closes() -> None:
    first = claim(31)
    assert first is not None
    assert claim(31) is None
    first.close()
    again = claim(31)
    assert again is not None
    again.close()
