"""What the settings change in an example, and how it is refused: in the example's words, with the setting's source."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.errors import ExampleError, SettingsError
from nomad_testkit.examples.example import Example
from nomad_testkit.examples.settings import changed, chosen_example
from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.settings import Settings

COLOCATED, SEPARATE = "nomad-consul-colocated-cluster", "nomad-consul-separate-cluster"


def given(*var: str, **options: str) -> Settings:
    return Settings.load(options={"nomad_var": var, **{f"nomad_{name}": text for name, text in options.items()}})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    shutil.copytree(examples_dir() / COLOCATED, folder)
    return folder


def test_without_settings_an_example_stays_as_it_is() -> None:
    example = Example.load(COLOCATED)
    assert changed(example, Settings.load()) is example
    assert chosen_example(Settings.load(), COLOCATED).variables == example.variables


def test_the_example_can_be_a_folder_or_a_name(own: Path) -> None:
    assert chosen_example(given(example=str(own)), COLOCATED).folder == own
    assert chosen_example(given(example=SEPARATE), COLOCATED).name == SEPARATE
    with pytest.raises(SettingsError, match=r"^option --nomad-example: there is no example at .*/nowhere"):
        chosen_example(given(example="nowhere"), COLOCATED)
    with pytest.raises(ExampleError, match=r"^there is no example"):
        chosen_example(given(), "nowhere")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (COLOCATED, {"num_servers": 1, "num_clients": 2}),
        (SEPARATE, {"num_nomad_servers": 1, "num_nomad_clients": 2, "num_consul_servers": 3}),
    ],
)
def test_numbers_of_hosts_have_other_names_in_every_example(name: str, sizes: dict[str, int]) -> None:
    example = changed(Example.load(name), given(servers="1", clients="2"))
    assert {variable: example.variables[variable] for variable in sizes} == sizes


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'cluster_size = "${num_servers}"',
            "cluster_size = 3",
            "option --nomad-servers: .*/own/example.toml: the groups of the role nomad_servers .servers.",
        ),
        (
            'nomad_servers = ["servers"]',
            'nomad_servers = ["servers", "clients"]',
            "expected each of them by --nomad-var: num_servers=N, num_clients=N",
        ),
    ],
)
def test_a_size_that_is_no_variable_or_several_is_refused(own: Path, old: str, new: str, told: str) -> None:
    file = own / "example.toml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(SettingsError, match=told):
        changed(Example.load(own), given(servers="1"))


def test_values_are_read_by_their_variables_type(own: Path) -> None:
    file = own / "example.toml"
    more = """
[variables.zones]
type = "strings"
default = []

[variables.flag]
type = "boolean"
default = false
"""
    file.write_text(file.read_text().replace("[roles]", more + "[roles]"))
    settings = given("cluster_name=007", "num_clients=2", 'zones=["a", "b"]', "flag=true")
    variables = changed(Example.load(own), settings).variables
    assert (variables["cluster_name"], variables["num_clients"]) == ("007", 2)
    assert (variables["zones"], variables["flag"]) == (("a", "b"), True)


@pytest.mark.parametrize(
    ("var", "found"),
    [
        ("num_client=2", "a variable that this example does not declare; did you mean num_clients"),
        ("num_clients=many", "the string 'many'; expected an integer"),
        ("num_clients=true", "the boolean true; expected an integer"),
        ("num_clients=1\nx=2", "the string '1\\nx=2'; expected an integer"),
        ("num_servers=2", "the integer 2; expected an odd number from 1 to 7"),
    ],
)
def test_a_wrong_variable_is_refused_in_the_examples_words(var: str, found: str) -> None:
    example = Example.load(COLOCATED)
    with pytest.raises(SettingsError) as caught:
        changed(example, given(var))
    told = f"option --nomad-var: {example.file}: variable {var.partition('=')[0]}: found {found}"
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"ini": {"nomad_servers": "4"}, "ini_file": "pytest.ini"},
            "^nomad_servers in pytest.ini: .*example.toml: variable num_servers: found",
        ),
        (
            {"options": {"nomad_var": [f"cluster_name={'x' * 60}"]}, "environ": {"NOMAD_TESTKIT_CLIENTS": "1"}},
            "^environment variable NOMAD_TESTKIT_CLIENTS, option --nomad-var: .*example",
        ),
    ],
)
def test_what_is_refused_names_all_its_sources(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        changed(Example.load(COLOCATED), Settings.load(**given))


def test_one_variable_by_two_settings_is_refused() -> None:
    settings = Settings.load(options={"nomad_var": ["num_servers=3"]}, ini={"nomad_servers": "1"}, ini_file="tox.ini")
    with pytest.raises(SettingsError) as caught:
        changed(Example.load(COLOCATED), settings)
    assert str(caught.value) == (
        "num_servers is given twice: 1 by nomad_servers in tox.ini, and 3 by option --nomad-var; leave one of them out"
    )
    same = given("num_servers=3", servers="3")
    assert changed(Example.load(COLOCATED), same).variables["num_servers"] == 3
