"""Settings: precedence, provenance, and one message for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_testkit.errors import SettingsError
from nomad_testkit.settings import Settings, table


def test_defaults_need_nothing() -> None:
    settings = Settings.load()
    found = (settings.target, settings.region, settings.timeout, settings.keep)
    assert found == ("embedded", "us-east-1", 300.0, False)
    assert settings.artifacts == Path("nomad-artifacts")
    assert settings.source("region") == "default"
    assert settings.in_force() == [
        (
            "target=embedded, region=us-east-1, timeout=300, election_timeout=30, heal_timeout=120, fault_time=30, "
            "keep=off, pause=off, artifacts=nomad-artifacts, consul_version=1.14.0, nomad_version=1.6.1 (default)"
        )
    ]


def test_option_beats_environment_beats_ini() -> None:
    everywhere = {
        "options": {"nomad_region": "eu-west-1"},
        "environ": {"NOMAD_TESTKIT_REGION": "eu-west-2", "NOMAD_TESTKIT_TIMEOUT": "90"},
        "ini": {"nomad_region": "eu-west-3", "nomad_timeout": "60", "nomad_keep": "yes"},
    }
    settings = Settings.load(**everywhere, ini_file="tox.ini")
    assert (settings.region, settings.source("region")) == ("eu-west-1", "option --nomad-region")
    assert (settings.timeout, settings.source("timeout")) == (90.0, "environment variable NOMAD_TESTKIT_TIMEOUT")
    assert (settings.keep, settings.source("keep")) == (True, "nomad_keep in tox.ini")


def test_an_empty_value_counts_as_none() -> None:
    settings = Settings.load(environ={"NOMAD_TESTKIT_AMI": ""}, ini={"nomad_ami": "ami-0123456789abcdef0"})
    assert settings.ami == "ami-0123456789abcdef0"


def test_everything_wrong_is_listed_at_once_with_its_source() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(
            options={"nomad_target": "gcp", "nomad_timeout": "0"},
            environ={"NOMAD_TESTKIT_KEEP": "maybe", "NOMAD_TESTKIT_TIMEOUT": "90"},
            ini={"nomad_ami": "ubuntu"},
            ini_file="pytest.ini",
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "nomad_testkit cannot use 4 of its settings:"
    assert lines[1:] == [
        "  - option --nomad-target: found 'gcp', expected one of embedded, aws",
        "  - nomad_ami in pytest.ini: found 'ubuntu', expected an AMI id such as ami-0123456789abcdef0",
        "  - option --nomad-timeout: found '0', expected a number of seconds above 0, such as 300",
        "  - environment variable NOMAD_TESTKIT_KEEP: found 'maybe', expected true or false",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", value) for value in ("soon", "-1", "nan", "inf")),
        *(("report", value) for value in (str(Path(__file__).parent), f"{__file__}/report.html", "/dev/full")),
        *(("region", "Virginia"), ("report", "a" * 300 + "/report.html"), ("artifacts", __file__)),
        *(("consul_version", "latest"), ("nomad_version", "1.6"), ("consul_binary", "/nowhere/consul")),
        *(("servers", "0"), ("servers", "three"), ("clients", "-1"), ("clients", "1.5")),
    ],
)
def test_wrong_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"--nomad-{name.replace('_', '-')}: found '"):
        Settings.load(options={f"nomad_{name}": value})


def test_a_binary_is_a_path(tmp_path: Path) -> None:
    binary = tmp_path / "nomad"
    binary.touch()
    assert Settings.load(options={"nomad_nomad_binary": str(binary)}).nomad_binary == binary


def test_help_names_the_default_and_the_other_ways() -> None:
    rows = {setting.name: setting for setting in table()}
    assert rows["consul_version"].description.endswith(
        "(default: 1.14.0; environment NOMAD_TESTKIT_CONSUL_VERSION, ini nomad_consul_version)"
    )
    assert "(default: off;" in rows["keep"].description
    assert "(default: none;" in rows["ami"].description
    assert rows["var"].description.endswith(
        "(default: none; environment NOMAD_TESTKIT_VAR with ; between them, ini nomad_var one a line)"
    )


def test_each_variable_has_the_source_that_is_first_to_give_it() -> None:
    settings = Settings.load(
        options={"nomad_var": ["num_clients=1", "num_clients=2", "vpc_id = vpc-1=2"], "nomad_servers": "1"},
        environ={"NOMAD_TESTKIT_VAR": "num_clients=3; cluster_name=mine;", "NOMAD_TESTKIT_CLIENTS": "0"},
        ini={"nomad_var": ["cluster_name=other", "", "gossip_key=c2VjcmV0"]},
        ini_file="tox.ini",
    )
    given = {"num_clients": "2", "vpc_id": "vpc-1=2", "cluster_name": "mine", "gossip_key": "c2VjcmV0"}
    assert settings.var == given
    assert (settings.servers, settings.clients) == (1, 0)
    assert settings.source("var cluster_name") == "environment variable NOMAD_TESTKIT_VAR"
    assert settings.in_force()[:-1] == [
        "servers=1 (option --nomad-servers)",
        "clients=0 (environment variable NOMAD_TESTKIT_CLIENTS)",
        "var num_clients=2 (option --nomad-var)",
        "var vpc_id=vpc-1=2 (option --nomad-var)",
        "var cluster_name=mine (environment variable NOMAD_TESTKIT_VAR)",
        "var gossip_key=(not shown) (nomad_var in tox.ini)",
    ]


@pytest.mark.parametrize("text", ["num_clients", "=3", "num clients=3", "num-clients=3"])
def test_a_variable_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ={"NOMAD_TESTKIT_VAR": text})
    found = f"environment variable NOMAD_TESTKIT_VAR: found {text!r}, expected KEY=VALUE, such as num_clients=3"
    assert found in str(caught.value)


def test_a_path_in_ini_is_relative_to_the_inis_folder(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "nomad").touch()
    written = {"nomad_example": "cluster", "nomad_artifacts": "evidence", "nomad_nomad_binary": "nomad"}
    settings = Settings.load(ini=written, ini_file=tmp_path / "pytest.ini")
    assert settings.example == str(tmp_path / "cluster")
    assert (settings.artifacts, settings.nomad_binary) == (tmp_path / "evidence", tmp_path / "nomad")
    bundled = {"nomad_example": "nomad-consul-separate-cluster"}
    assert Settings.load(ini=bundled, ini_file=tmp_path / "pytest.ini").example == "nomad-consul-separate-cluster"
    assert Settings.load(options={"nomad_artifacts": "evidence"}).artifacts == Path("evidence")


def test_what_is_attached_to_cannot_be_deployed_otherwise() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(
            options={"nomad_attach": "dev", "nomad_servers": "1", "nomad_keep": "true", "nomad_var": ["ssh_user=me"]},
            environ={"NOMAD_TESTKIT_CLIENTS": "2"},
        )
    assert str(caught.value).splitlines()[1] == (
        "  - option --nomad-attach: dev is deployed already, but these say how to deploy: option --nomad-servers, "
        "option --nomad-var, option --nomad-keep; leave them out, or attach to nothing"
    )
    with pytest.raises(SettingsError, match=r"NOMAD_TESTKIT_ATTACH: dev .* option --nomad-ami, .*TESTKIT_CLIENTS; "):
        Settings.load(
            options={"nomad_ami": "ami-0123456789abcdef0"},
            environ={"NOMAD_TESTKIT_ATTACH": "dev", "NOMAD_TESTKIT_CLIENTS": "2"},
        )


def test_what_is_attached_to_overrides_what_says_less_how_to_deploy() -> None:
    settings = Settings.load(
        options={"nomad_attach": "dev"},
        environ={"NOMAD_TESTKIT_CLIENTS": "2", "NOMAD_TESTKIT_TIMEOUT": "90"},
        ini={"nomad_example": "mine", "nomad_var": ["ssh_user=me"]},
    )
    assert (settings.attach, settings.timeout) == ("dev", 90.0)
    assert (settings.clients, settings.example, settings.changes_examples) == (None, None, False)
    assert settings.in_force()[:2] == [
        "timeout=90 (environment variable NOMAD_TESTKIT_TIMEOUT)",
        "attach=dev (option --nomad-attach)",
    ]
