"""A folder of *.tf as an example: its roles and sizes, what settings change in it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import write

from nomad_testkit import Example
from nomad_testkit.errors import ExampleError, SettingsError
from nomad_testkit.examples.cluster_outputs import GroupOutputs, find_groups
from nomad_testkit.examples.example import Roles, Sizes
from nomad_testkit.examples.settings import chosen_example, with_sensitive
from nomad_testkit.examples.terraform import TerraformExample
from nomad_testkit.settings import Settings

VARIABLES = """
variable "ami_id" { default = null }
variable "num_servers" { default = 3 }
variable "num_clients" { default = "6" }
variable "names" { type = list(string) }
variable "fast" {
  type    = bool
  default = false
}
variable "price" {
  type    = number
  default = 0.5
}
variable "licence" {
  type      = string
  sensitive = true
  default   = ""
}
"""
COLOCATED = ("num_nomad_servers", "asg_name_servers", "num_clients", "asg_name_clients", "aws_region")
SEPARATE = ("asg_name_consul_servers", "asg_name_nomad_servers", "asg_name_nomad_clients", "num_consul_servers")
BY_TAG = ("nomad_servers_cluster_tag_key", "nomad_servers_cluster_tag_value", "num_nomad_servers")
BY_KEY = ("cluster_tag_key_servers", "cluster_tag_value_servers", "num_servers")


def outputs(*names: str) -> str:
    return "".join(f'output "{name}" {{\n  value = "x"\n}}\n' for name in names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "mine", variables=VARIABLES, outputs=outputs(*COLOCATED))


def settings(folder: Path, *var: str, **options: str) -> Settings:
    return Settings.load(options={"nomad_example": str(folder), "nomad_var": var, **options})


def test_the_outputs_of_upstreams_root_example_make_a_colocated_cluster(folder: Path) -> None:
    example = Example.load(folder)
    assert example.roles == Roles(("servers",), ("servers",), ("clients",))
    assert (example.name, example.groups, example.ssh_user) == ("mine", ("servers", "clients"), "admin")
    assert (example.roles.topology, example.sizes) == ("colocated", Sizes(3, 3, 6))
    assert not example.security.wanted
    assert example.deployed({"num_servers": 1, "num_clients": 2}).sizes == Sizes(1, 1, 2)
    with pytest.raises(ExampleError, match=r"expected an example\.toml to plan from"):
        example.render()


def test_the_outputs_of_upstreams_separate_example_make_a_separate_cluster(tmp_path: Path) -> None:
    example = Example.load(write(tmp_path, main=outputs(*SEPARATE)))
    assert example.roles == Roles(("consul_servers",), ("nomad_servers",), ("nomad_clients",))
    assert example.roles.topology == "separate"
    assert example.sizes == Sizes(0, 0, 0)
    assert example.size_variables("nomad_servers") == (None,)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (COLOCATED, GroupOutputs("servers", asg_name="asg_name_servers", num="num_nomad_servers")),
        (BY_TAG, GroupOutputs("nomad_servers", tag_key=BY_TAG[0], tag_value=BY_TAG[1], num=BY_TAG[2])),
        (BY_KEY, GroupOutputs("servers", tag_key=BY_KEY[0], tag_value=BY_KEY[1], num=BY_KEY[2])),
        (BY_TAG[:2], None),
        (BY_KEY[::2], None),
    ],
)
def test_a_group_is_found_by_its_name_or_by_tag_and_number(names: tuple[str, ...], found: GroupOutputs | None) -> None:
    assert find_groups(names).get("nomad_servers") == found


def test_outputs_that_are_missing_are_named_with_those_that_there_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "some", outputs=outputs("asg_name_servers", "vpc_id"))
    with pytest.raises(ExampleError) as caught:
        Example.load(folder)
    assert str(caught.value) == (
        f"{folder}/outputs.tf: outputs: found asg_name_servers, vpc_id; expected besides these "
        "asg_name_nomad_clients or asg_name_clients, the name of the auto scaling group of the Nomad clients"
    )
    with pytest.raises(ExampleError, match=r"outputs: found none \(main\.tf is not read as HCL: .* line 1, column 9"):
        Example.load(write(tmp_path / "none", main='output {{{ "asg_name_servers"\n'))


def test_a_folder_with_both_kinds_of_files_is_refused(folder: Path) -> None:
    (folder / "example.toml").touch()
    with pytest.raises(ExampleError) as caught:
        Example.load(folder)
    assert str(caught.value) == (
        f"{folder}: found example.toml and outputs.tf, variables.tf; expected one of them: what is to make the cluster?"
    )


def test_an_unknown_variable_is_answered_with_those_declared(folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        chosen_example(settings(folder, "num_client=3"), "")
    assert str(caught.value) == (
        f"option --nomad-var: {folder}: variable num_client: found a variable that this configuration does not "
        "declare; expected one of those declared, ssh_user, ssh_private_key_file, ami_id, num_servers, num_clients, "
        "names, fast, price, licence; did you mean num_clients?"
    )


def test_the_settings_go_to_upstreams_variables(folder: Path) -> None:
    ami = "ami-0123456789abcdef0"
    variables = ('names=["a", "b"]', "fast=true", "price=2", "licence=2024-11", "ssh_user=ubuntu")
    chosen = settings(folder, *variables, nomad_servers="5", nomad_clients="0", nomad_ami=ami)
    example = chosen_example(chosen, "")
    assert isinstance(example, TerraformExample)
    assert dict(example.given) == {
        "num_servers": 5,
        "num_clients": 0,
        "ami_id": ami,
        "names": ["a", "b"],
        "fast": True,
        "price": 2,
        "licence": "2024-11",
        "ssh_user": "ubuntu",
    }
    assert (example.sizes, example.ssh_user) == (Sizes(5, 5, 0), "ubuntu")


def test_another_process_gets_what_was_given_and_nothing_else(folder: Path) -> None:
    example = Example.load(folder).replace(num_clients=2, names=["a"])
    assert example.describe() == {"folder": str(folder), "variables": {"num_clients": 2, "names": ["a"]}}
    assert Example.from_description(example.describe()) == example


@pytest.mark.parametrize(
    ("var", "found", "right"),
    [
        ("num_servers=2", "the string '2'", "an odd number from 1 to 7"),
        ("num_servers=many", "the string 'many'", "an integer"),
        ("ami_id=ubuntu", "the string 'ubuntu'", "an AMI id such as ami-0abc1234"),
        ("names=a", "the string 'a'", 'list(string) in JSON, such as ["a", "b"]'),
        ("fast=yes", "the string 'yes'", "true or false"),
        ("price=cheap", "the string 'cheap'", "a number"),
        ('licence=["a"]', "the list ['a']", "a string"),
        ("ssh_private_key_file=/nowhere/id", "'/nowhere/id', which cannot be read", "a private key without"),
    ],
)
def test_a_value_that_a_variable_cannot_hold_is_refused(var: str, found: str, right: str, folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        chosen_example(settings(folder, var), "")
    assert f"option --nomad-var: {folder}: variable {var.partition('=')[0]}: found {found}" in str(caught.value)
    assert right in str(caught.value)


def test_a_key_pair_of_the_users_own_needs_its_private_key(folder: Path) -> None:
    write(folder, more='variable "ssh_key_name" {}\n')
    with pytest.raises(ExampleError, match="ssh_private_key_file: found nothing; expected the file of the private key"):
        Example.load(folder).replace(ssh_key_name="mine")


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"nomad_clients": "3"}, 'expected a variable with such a name as upstream\'s, such as variable "num_clients"'),
        ({"nomad_ami": "ami-0123456789abcdef0"}, "variable ami_id: found a variable that this configuration does not"),
    ],
)
def test_a_setting_that_no_variable_can_take_is_refused(options: dict[str, str], right: str, tmp_path: Path) -> None:
    folder = write(tmp_path, main=outputs(*COLOCATED))
    with pytest.raises(SettingsError) as caught:
        chosen_example(settings(folder, **options), "")
    assert right in str(caught.value)


def test_the_header_does_not_show_what_is_declared_as_sensitive(folder: Path) -> None:
    chosen = settings(folder, "licence=abc", "price=1")
    assert with_sensitive(chosen).in_force()[1:3] == [
        "var licence=(not shown) (option --nomad-var)",
        "var price=1 (option --nomad-var)",
    ]
    assert "var licence=abc (option --nomad-var)" in chosen.in_force()
    for other in (settings(folder), settings(folder / "nowhere", "licence=abc")):
        assert with_sensitive(other) is other
