"""install_dnsmasq and setup_systemd_resolved: what they write, and when they refuse."""

from __future__ import annotations

from pathlib import Path

import host_dns
import install_dnsmasq
import pytest
import setup_systemd_resolved
from fake_host import FakeHost, usage_of

LINK = "Global: 127.0.0.1:8600\nLink 2 (eth0): 172.31.0.2\nLink 3 (docker0):"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    made.answers["systemctl --version"] = (0, "systemd 252 (252.17-1~deb12u1)\n+PAM")
    made.answers["resolvectl dns"] = (0, LINK)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/resolv.conf").write_text("nameserver 172.31.0.2\n")
    return folder


def test_resolved_is_told_where_consul_is(host: FakeHost, root: Path) -> None:
    assert setup_systemd_resolved.main([], host, root) == 0
    assert (root / "etc/systemd/resolved.conf.d/consul.conf").read_text().splitlines()[1:] == [
        *("[Resolve]", "DNS=127.0.0.1:8600", "Domains=~consul", "DNSStubListener=yes")
    ]
    assert (root / "etc/dnssec-trust-anchors.d/consul.negative").read_text() == "consul\n"
    assert (root / "etc/resolv.conf").readlink() == Path("/run/systemd/resolve/stub-resolv.conf")
    assert host.ran("systemctl enable --now systemd-resolved.service")
    assert host.commands.index("systemctl restart systemd-resolved.service") > 0
    assert not host.ran("apt-get")


def test_resolved_takes_other_values(host: FakeHost, root: Path) -> None:
    values = ["--consul-domain", "dc.example", "--consul-ip", "fd00::1", "--consul-dns-port", "8653"]
    assert setup_systemd_resolved.main(values, host, root) == 0
    written = (root / "etc/systemd/resolved.conf.d/consul.conf").read_text()
    assert "DNS=[fd00::1]:8653\nDomains=~dc.example\n" in written


@pytest.mark.parametrize("port", ["8600", "53"])
def test_an_old_resolved_asks_port_53(
    port: str, host: FakeHost, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.answers["systemctl --version"] = (0, "systemd 245 (245.4-4ubuntu3)")
    status = setup_systemd_resolved.main(["--consul-dns-port", port], host, root)
    written = root / "etc/systemd/resolved.conf.d/consul.conf"
    if port == "53":
        assert status == 0
        assert "DNS=127.0.0.1\n" in written.read_text()
    else:
        assert status == 1
        assert "is version 245, and only 246 and newer" in capsys.readouterr().err
        assert not written.exists()


def test_a_network_without_dns_servers_stays(host: FakeHost, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host.answers["resolvectl dns"] = (0, "Global:\nLink 2 (eth0):")
    assert setup_systemd_resolved.main([], host, root) == 1
    assert "no network link has a DNS server, so all names would be asked of Consul" in capsys.readouterr().err
    assert (root / "etc/resolv.conf").read_text() == "nameserver 172.31.0.2\n"
    assert not (root / "etc/systemd/resolved.conf.d").exists()


def test_dnsmasq_is_told_where_consul_is(host: FakeHost, root: Path) -> None:
    (root / "etc/dhcp").mkdir()
    (root / "etc/dhcp/dhclient.conf").write_text("timeout 300;\n")
    for _ in range(2):
        assert install_dnsmasq.main([], host, root) == 0
    assert (root / "etc/dnsmasq.d/10-consul").read_text().splitlines()[1:] == [
        *("server=/consul/127.0.0.1#8600", "no-resolv", "server=169.254.169.253"),
        *("listen-address=127.0.0.1", "bind-interfaces"),
    ]
    assert (root / "etc/dhcp/dhclient.conf").read_text() == "timeout 300;\nprepend domain-name-servers 127.0.0.1;\n"
    drop_in = (root / "etc/systemd/system/dnsmasq.service.d/consul.conf").read_text()
    assert "sed -i '1i nameserver 127.0.0.1' /etc/resolv.conf" in drop_in
    assert host.ran("dnsmasq --test")
    assert host.ran("systemctl enable dnsmasq.service")
    assert host.ran("systemctl restart dnsmasq.service")


def test_dnsmasq_takes_other_values(host: FakeHost, root: Path) -> None:
    servers = ["--dns-server", "10.0.0.2:5353", "--dns-server", "fd00::53", "--dns-server", "[fd00::54]:54"]
    values = ["--consul-domain", "dc.example", "--consul-ip", "10.0.0.9", "--consul-dns-port", "53"]
    assert install_dnsmasq.main([*servers, *values, "--dnsmasq-listen-address", "127.0.0.2"], host, root) == 0
    written = (root / "etc/dnsmasq.d/10-consul").read_text().splitlines()
    assert written[1:] == [
        *("server=/dc.example/10.0.0.9#53", "no-resolv"),
        *("server=10.0.0.2#5353", "server=fd00::53", "server=fd00::54#54"),
        *("listen-address=127.0.0.2", "bind-interfaces"),
    ]


def test_dnsmasq_is_refused_beside_resolved(host: FakeHost, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    assert install_dnsmasq.main([], host, root) == 1
    assert "use setup_systemd_resolved, which needs no dnsmasq" in capsys.readouterr().err
    assert not host.ran("systemctl")


def test_what_dnsmasq_refuses_is_not_started(host: FakeHost, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host.answers["dnsmasq --test"] = (1, "bad option at line 2")
    assert install_dnsmasq.main([], host, root) == 1
    assert "dnsmasq refuses its configuration: bad option at line 2" in capsys.readouterr().err
    assert not host.ran("systemctl restart")


@pytest.mark.parametrize(
    ("manager", "commands"),
    [
        ("apt-get", ["apt-get update -q", " ".join([*host_dns.DEBIAN_INSTALL, "dnsmasq"])]),
        ("dnf", ["dnf install -y -q dnsmasq"]),
    ],
)
def test_a_package_that_is_missing_is_installed(
    manager: str, commands: list[str], host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.answers["systemctl cat"] = (1, "No files found for dnsmasq.service.")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == manager else None)
    monkeypatch.setenv("DEBIAN_FRONTEND", "noninteractive")
    assert install_dnsmasq.main([], host, root) == 0
    assert host.commands[1 : 1 + len(commands)] == commands


def test_a_package_that_cannot_be_installed_is_told(
    host: FakeHost, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host.answers["systemctl cat"] = (1, "No files found")
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert install_dnsmasq.main([], host, root) == 1
    assert "dnsmasq is not on this host, which has none of apt-get, dnf and yum" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--consul-ip localhost", "'localhost' is refused; expected an IP address"),
        ("--consul-domain a_b", "'a_b' is refused; expected a domain"),
        ("--consul-dns-port 0", "'0' is refused; expected a whole number from 1 to 65535"),
        ("--dnsmasq-listen-address eth0", "'eth0' is refused; expected an IP address"),
        ("--verbose", "unrecognized arguments: --verbose"),
    ],
)
def test_bad_options_end_with_usage(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_of(install_dnsmasq.parse, options, capsys)
    assert said.startswith("usage: install-dnsmasq")
    assert message in said
