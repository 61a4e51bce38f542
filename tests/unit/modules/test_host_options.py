"""Values of options: what is taken, and what a refusal says."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Callable
from typing import Any

import host_options
import pytest

KEYS = [base64.b64encode(bytes(size)).decode() for size in (16, 24, 32)]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (host_options.whole_number(1), "3", 3),
        (host_options.whole_number(0), "0", 0),
        (host_options.duration, "200ms", "200ms"),
        (host_options.duration, "1h2m3.5s", "1h2m3.5s"),
        (host_options.boolean, "false", False),
        (host_options.dns_server, "10.0.0.2", "10.0.0.2"),
        (host_options.dns_server, "10.0.0.2:5353", "10.0.0.2:5353"),
        (host_options.dns_server, "fd00:ec2::253", "fd00:ec2::253"),
        (host_options.endpoint, "http://10.0.0.1:5000/", "http://10.0.0.1:5000"),
        (host_options.endpoint, "", ""),
        (host_options.token, "6CDB7D0B-ab20-4d39-9a3c-6dd5ec2a01b5", "6cdb7d0b-ab20-4d39-9a3c-6dd5ec2a01b5"),
        (host_options.agent_address, "localhost:8500", ("localhost", 8500)),
        (host_options.ip_address, "FD00::1", "fd00::1"),
        (host_options.environment, "A=b=c d", ("A", "b=c d")),
        (host_options.systemd_output, "append:/var/log/consul.log", "append:/var/log/consul.log"),
        (host_options.systemd_output, "journal+console", "journal+console"),
        *((host_options.gossip_key, key, key) for key in KEYS),
    ],
)
def test_taken(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (host_options.whole_number(1), "0", "'0' is refused; expected a whole number of at least 1"),
        (host_options.whole_number(1), "-1", "'-1' is refused"),
        (host_options.whole_number(1), "3.0", "'3.0' is refused"),
        (host_options.whole_number(1, 10), "11", "'11' is refused; expected a whole number from 1 to 10"),
        (host_options.duration, "200", "'200' is refused; expected a duration with its unit"),
        (host_options.boolean, "yes", "'yes' is refused; expected true or false"),
        (host_options.dns_server, "10.0.0.256", "expected an IP address"),
        (host_options.dns_server, "10.0.0.2:0", "expected an IP address"),
        (host_options.dns_server, "dns.example.com", "expected an IP address"),
        (host_options.endpoint, "ec2.amazonaws.com", "expected http:// or https://"),
        (host_options.endpoint, "http://host/path", "no path"),
        (host_options.environment, "1A=b", "'1A'; expected KEY=VALUE"),
        (host_options.systemd_output, "append:relative.log", "one of systemd's"),
        (host_options.systemd_output, "journal\nExecStartPost=/bin/evil", "one of systemd's"),
        (host_options.tag_text, "", "1 to 256 printable characters"),
        (host_options.absolute_path, "config", "'config' is refused; expected an absolute path"),
        (host_options.absolute_path, "/a\nb", "expected an absolute path"),
        (host_options.user_name, "root:root", "a user's name"),
    ],
)
def test_refused(parse: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (host_options.gossip_key, "c2VjcmV0", "what was given has 6 bytes; expected base64 of 16, 24 or 32 bytes"),
        (host_options.gossip_key, "not base64!", "what was given is not base64"),
        (host_options.token, "hunter2", "what was given has 7 characters; expected a UUID"),
        (host_options.token, "hunter2-" * 4 + "2222", "what was given is not one; expected a UUID"),
        (host_options.environment, "hunter2", "there is no = in what was given"),
    ],
)
def test_a_refused_secret_is_not_shown(parse: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert text not in str(caught.value)
    assert "hunter2" not in str(caught.value)
