"""A run's secrets: what is made, who gets what, and that nothing shows them."""

from __future__ import annotations

import base64
import io
import ipaddress
import subprocess
import tarfile
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from nomad_testkit import plugin
from nomad_testkit.cluster.clients.access import ApiAccess
from nomad_testkit.cluster.secrets import RunSecrets, Secret, archive, gossip_key, hide_all
from nomad_testkit.cluster.shell_environment import ShellEnvironment
from nomad_testkit.errors import TestkitError
from nomad_testkit.examples.example import Roles
from nomad_testkit.examples.security import Security
from nomad_testkit.modules.network import Instance

ALL = Security(tls=True, gossip_encryption=True, acl=True)
COLOCATED = Roles(("servers",), ("servers",), ("clients",))
SEPARATE = Roles(("consul",), ("servers",), ("clients",))
TOKENS = {f"consul-{kind}.token" for kind in ("agent", "default", "management", "nomad")} | {"nomad-management.token"}
GOSSIP = {"consul-gossip.key", "nomad-gossip.key"}
KIT = {"ca.pem", "kit.pem", "kit-key.pem"}
COMMON = {"ca.pem", "consul.pem", "consul-key.pem", "consul-gossip.key"} | {
    f"consul-{kind}.token" for kind in ("agent", "default", "nomad")
}
NOMAD_TLS = {"nomad.pem", "nomad-key.pem"}


@pytest.fixture
def secrets(tmp_path: Path) -> RunSecrets:
    return RunSecrets.create(tmp_path / "secrets", ALL, region="us-east-1")


def instance(group: str) -> Instance:
    return Instance("i-1", group, "running", "172.31.0.4", "54.1.2.3", "us-east-1a", "ami-1")


def for_host(secrets: RunSecrets, group: str, roles: Roles = COLOCATED) -> dict[str, Secret]:
    return secrets.for_host(instance(group), "127.31.0.4", roles)


def certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def names(pem: str) -> tuple[set[str], set[str]]:
    found = certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses: list[ipaddress.IPv4Address] = found.get_values_for_type(x509.IPAddress)  # type: ignore[assignment]
    return set(found.get_values_for_type(x509.DNSName)), {str(address) for address in addresses}


def test_everything_that_is_demanded_is_made_and_only_its_owner_reads_it(secrets: RunSecrets) -> None:
    assert set(secrets.values) == TOKENS | GOSSIP | KIT
    assert secrets.folder.stat().st_mode & 0o777 == 0o700
    files = {path.name: path for path in secrets.folder.iterdir()}
    assert set(files) == set(secrets.values)
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert {name: path.read_text() for name, path in files.items()} == dict(secrets.values)


def test_tokens_are_uuids_and_gossip_keys_are_for_aes_256(secrets: RunSecrets) -> None:
    assert all(uuid.UUID(secrets[name]).version == 4 for name in TOKENS)
    assert {len(base64.b64decode(secrets[name], validate=True)) for name in GOSSIP} == {32}
    values = [str(value) for value in secrets.values.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("security", "made"),
    [(Security(tls=True), KIT), (Security(gossip_encryption=True), GOSSIP), (Security(acl=True), TOKENS)],
)
def test_only_what_is_demanded_is_made(tmp_path: Path, security: Security, made: set[str]) -> None:
    secrets = RunSecrets.create(tmp_path / "secrets", security, region="us-east-1")
    assert set(secrets.values) == made
    assert set(for_host(secrets, "servers")) == {name for name in made if not name.startswith("kit")} | (
        {"consul.pem", "consul-key.pem", *NOMAD_TLS} if security.tls else set()
    )


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TestkitError, match=r"the run's secrets cannot be written: .*No such file or directory"):
        RunSecrets.create(tmp_path / "missing" / "secrets", ALL, region="us-east-1")
    with pytest.raises(TestkitError, match=r"the run's secrets cannot be read: .*No such file or directory"):
        RunSecrets.load(tmp_path / "missing")


NOMAD_SERVER = NOMAD_TLS | {"nomad-management.token", "nomad-gossip.key"}


@pytest.mark.parametrize(
    ("group", "roles", "files"),
    [
        ("servers", COLOCATED, COMMON | NOMAD_SERVER | {"consul-management.token"}),
        ("clients", COLOCATED, COMMON | NOMAD_TLS),
        ("consul", SEPARATE, COMMON | {"consul-management.token"}),
        ("servers", SEPARATE, COMMON | NOMAD_SERVER),
    ],
)
def test_a_host_gets_what_its_agents_need(secrets: RunSecrets, group: str, roles: Roles, files: set[str]) -> None:
    given = for_host(secrets, group, roles)
    assert set(given) == files
    assert {given[name] for name in set(given) & set(secrets.values)} <= set(secrets.values.values())


@pytest.mark.parametrize(
    ("group", "roles", "consul", "nomad"),
    [
        ("servers", COLOCATED, "server", {"server"}),
        ("clients", COLOCATED, "client", {"client"}),
        ("servers", SEPARATE, "client", {"server"}),
        ("all", Roles(("all",), ("all",), ("all",)), "server", {"server", "client"}),
    ],
)
def test_what_certificates_name(secrets: RunSecrets, group: str, roles: Roles, consul: str, nomad: set[str]) -> None:
    files = for_host(secrets, group, roles)
    addresses = {"127.0.0.1", "172.31.0.4", "54.1.2.3", "127.31.0.4"}
    assert names(files["consul.pem"]) == ({f"{consul}.us-east-1.consul", "localhost"}, addresses)
    assert names(files["nomad.pem"]) == ({"localhost", *(f"{role}.us-east-1.nomad" for role in nomad)}, addresses)
    for agent in ("consul", "nomad"):
        issued = certificate(files[f"{agent}.pem"])
        issued.verify_directly_issued_by(certificate(secrets["ca.pem"]))
        usages = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(usages) >= {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_consuls_certificates_name_another_datacenter_where_there_is_one(tmp_path: Path) -> None:
    security = Security(tls=True, consul_datacenter="dc1")
    files = for_host(RunSecrets.create(tmp_path / "secrets", security, region="us-east-1"), "servers")
    assert names(files["consul.pem"])[0] == {"server.dc1.consul", "localhost"}
    assert names(files["nomad.pem"])[0] == {"server.us-east-1.nomad", "localhost"}


def test_every_host_has_keys_of_its_own(secrets: RunSecrets) -> None:
    one, other = for_host(secrets, "servers"), for_host(secrets, "servers")
    keys = {files[f"{agent}-key.pem"] for files in (one, other) for agent in ("consul", "nomad")}
    assert len(keys) == 4


def test_another_process_reads_them_but_issues_nothing(secrets: RunSecrets) -> None:
    loaded = RunSecrets.load(secrets.folder)
    assert dict(loaded.values) == dict(secrets.values)
    assert loaded.access == secrets.access
    with pytest.raises(TestkitError, match="only the process that deploys a cluster can issue certificates"):
        for_host(loaded, "servers")


def test_access_is_by_tls_with_the_management_tokens(secrets: RunSecrets) -> None:
    access = secrets.access
    assert access == ApiAccess(
        secrets.folder / "ca.pem",
        (secrets.folder / "kit.pem", secrets.folder / "kit-key.pem"),
        consul_token=secrets["consul-management.token"],
        nomad_token=secrets["nomad-management.token"],
    )
    assert access.consul_url("127.31.0.4") == "https://127.31.0.4:8501"
    assert access.nomad_url("127.31.0.4") == "https://127.31.0.4:4646"


def test_access_with_acls_alone_is_plain_http_with_tokens(tmp_path: Path) -> None:
    access = RunSecrets.create(tmp_path / "secrets", Security(acl=True), region="us-east-1").access
    assert (access.ca_path, access.cert_paths) == (None, None)
    assert access.consul_url("127.31.0.4") == "http://127.31.0.4:8500"
    assert access.nomad_token is not None


def test_nothing_shows_a_secret_but_its_use(secrets: RunSecrets) -> None:
    shown = [repr(secrets), repr(secrets.access), repr(secrets.values), repr(for_host(secrets, "servers"))]
    shown += [repr(secrets.environment()), f"{secrets!r}", repr([gossip_key()])]
    assert {"consul-gossip.key", "nomad-management.token", "kit-key.pem"} < secrets.values.keys()
    for name, value in secrets.values.items():
        if name not in ("ca.pem", "kit.pem"):
            assert value.splitlines(), name
            assert not any(line in text for text in shown for line in value.splitlines()), name
    assert f"{Secret('b1gs33cr3t')}" == "b1gs33cr3t"


def test_pytests_comparison_of_two_texts_shows_none() -> None:
    assert plugin.pytest_assertrepr_compare("==", Secret("b1gs33cr3t"), "other") == ["'(hidden)' == 'other'"]
    assert plugin.pytest_assertrepr_compare("in", "x", Secret("b1gs33cr3t")) == ["'x' in '(hidden)'"]
    assert plugin.pytest_assertrepr_compare("==", "x", "y") is None


def test_they_are_hidden_in_a_text(secrets: RunSecrets) -> None:
    token, gossip = secrets["nomad-management.token"], secrets["consul-gossip.key"]
    lines = secrets["kit-key.pem"].splitlines()
    text = f"token={token} {gossip}\n{lines[1]}\nelse {secrets['ca.pem']}"
    hosts_key = for_host(secrets, "servers")["nomad-key.pem"]
    assert secrets.hide(hosts_key) == "-----BEGIN EC PRIVATE KEY-----(hidden)-----END EC PRIVATE KEY-----\n"
    assert secrets.hide(text) == f"token=(hidden) (hidden)\n(hidden)\nelse {secrets['ca.pem']}"
    assert secrets.hide("nothing of it") == "nothing of it"
    assert secrets.hide(f"assert '{token[:11]}...{token[-12:]}' == 'x'") == "assert '(hidden)' == 'x'"  # as pytest does
    assert hide_all(f"{token} of any run") == "(hidden) of any run"


def test_the_shells_environment_names_files(secrets: RunSecrets) -> None:
    lines = ShellEnvironment(secrets.environment(), secrets.environment_files()).lines()
    shell = "\n".join([*lines, 'echo "$NOMAD_TOKEN"; cat "$CONSUL_HTTP_TOKEN_FILE"; echo; echo "$NOMAD_CACERT"'])
    said = subprocess.run(["bash", "-euc", shell], capture_output=True, text=True, check=True).stdout.splitlines()
    tokens = [secrets[f"{agent}-management.token"] for agent in ("nomad", "consul")]
    assert said == [*tokens, str(secrets.folder / "ca.pem")]
    assert {*secrets.environment(), *secrets.environment_files()} == {
        *(f"{agent}_{kind}" for agent in ("NOMAD", "CONSUL") for kind in ("CACERT", "CLIENT_CERT", "CLIENT_KEY")),
        "NOMAD_TOKEN",
        "CONSUL_HTTP_TOKEN_FILE",
    }


def test_an_archive_holds_files_that_only_their_owner_reads() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive({"a.token": "t0p", "b.pem": "x\n"}))) as tar:
        found = {entry.name: (tar.extractfile(entry).read().decode(), entry.mode) for entry in tar}  # type: ignore[union-attr]
    assert found == {"a.token": ("t0p", 0o600), "b.pem": ("x\n", 0o600)}


def test_a_secret_that_begins_another_one_and_a_key_that_is_cut_short_leave_nothing(tmp_path: Path) -> None:
    short = "0123456789abcdef"
    made = RunSecrets(tmp_path, {"a.token": Secret(short), "b.token": Secret(f"{short}-and-more")})
    assert made.hide(f"x {short}-and-more y {short}") == "x (hidden) y (hidden)"
    assert "MIGH" not in hide_all("-----BEGIN PRIVATE KEY-----\nMIGHsecret")
