"""What a folder of *.tf declares, what has to be copied with it, and what of it must not be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import write

from nomad_testkit.errors import ExampleError
from nomad_testkit.examples.configuration import Configuration, Declared, root

VARIABLES = """
variable "ami_id" {
  description = "An \\"image\\" with a brace {"
  type        = string
}
variable "num_clients" {
  default = 6
}
variable "blocks" {
  type    = list(string)
  default = ["10.0.0.0/8"]
}
variable "options" {
  type    = object({ name = string, size = optional(number, 3) })
  default = { name = "a b", size = 4 }
}
variable "nothing" {
  type    = string
  default = null
}
variable "old" {
  type = "map"
}
variable "token" {
  type      = string
  sensitive = true
  default   = "t0ken"
}
locals {
  text = <<-EOT
    variable "none" {
    }
  EOT
}
# variable "none_either" {}
"""


def test_variables_are_read_with_type_default_and_sensitivity(tmp_path: Path) -> None:
    read = Configuration.read(write(tmp_path, variables=VARIABLES))
    assert list(read.variables.values()) == [
        Declared("ami_id", "string", None, True),
        Declared("num_clients", "", 6),
        Declared("blocks", "list(string)", ["10.0.0.0/8"]),
        Declared("options", "object({name = string, size = optional(number, 3)})", {"name": "a b", "size": 4}),
        Declared("nothing", "string", None, False),
        Declared("old", "map", None, True),
        Declared("token", "string", "t0ken", False, True),
    ]
    primitive = [one.name for one in read.variables.values() if one.primitive]
    assert primitive == ["ami_id", "num_clients", "nothing", "token"]
    assert read.unread == {}


def test_json_and_overriding_files_are_read_too(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        main='variable "size" {\n  type    = number\n  default = 1\n}\noutput "b" {\n  value = 1\n}\n',
        **{
            "more.tf.json": '{"variable": {"name": {"type": "list(string)", "default": ["x"]}, "plain": [{}]},'
            ' "output": [{"a": {"value": "${var.name}"}}]}',
            "a_override.tf": 'variable "size" {\n  default = 5\n}\n',
            ".hidden.tf": 'output "hidden" {}',
            "notes.txt": 'output "notes" {}',
        },
    )
    read = Configuration.read(folder)
    assert list(read.variables.values()) == [
        Declared("size", "number", 5),
        Declared("name", "list(string)", ["x"]),
        Declared("plain", "", None, True),
    ]
    assert read.outputs == ("b", "a")


def test_a_file_that_is_no_hcl_is_looked_through_for_names(tmp_path: Path) -> None:
    read = Configuration.read(write(tmp_path, main='output "a" {\n  value = \n}\nvariable b {\n  type = number\n}\n'))
    assert read.outputs == ("a",)
    assert read.variables == {"b": Declared("b", required=True)}
    assert "line 2" in read.unread["main.tf"]


def test_secrets_are_all_values_of_sensitive_variables(tmp_path: Path) -> None:
    more = 'variable "key" {\n  sensitive = true\n}\nvariable "all" {\n  type = map(string)\n  sensitive = true\n}\n'
    read = Configuration.read(write(tmp_path, variables=VARIABLES, more=more))
    values = {"ami_id": "ami-1", "key": "-----BEGIN-----\nMIIabcdefgh\nEnd\n", "all": {"a": "one", "b": ["two"]}}
    assert read.secrets(values) == [
        "-----BEGIN-----\nMIIabcdefgh\nEnd\n",
        "-----BEGIN-----",
        "MIIabcdefgh",
        "t0ken",
        *sorted(("one", "two"), key=read.secrets(values).index),
    ]


def test_the_folder_itself_is_copied_where_it_refers_to_nothing_above(tmp_path: Path) -> None:
    module = 'module "a" {\n  source = "./modules/a"\n}\nmodule "b" {\n  source = "git::https://example.com/b.git"\n}\n'
    folder = write(tmp_path / "mine", main=module, **{"modules/a/main.tf": 'output "x" {}\n'})
    assert root(folder) == folder


@pytest.mark.parametrize(
    ("main", "module"),
    [
        ('module "a" {\n  source = "../../modules/a"\n}\n', ""),
        ('module "a" {\n  source = "../near/a"\n}\n', 'module "b" {\n  source = "../../../modules/b"\n}\n'),
        ('locals {\n  a = file("${path.module}/../../modules/a.sh")\n}\n', ""),
        ('locals {\n  a = templatefile("${path.root}/../../a.sh", {})\n}\n', ""),
    ],
)
def test_what_modules_and_files_need_is_copied_with_it(main: str, module: str, tmp_path: Path) -> None:
    top = tmp_path / "repository"
    folder = write(top / "live" / "test", main=main)
    write(top / "live" / "near" / "a", main=module)
    assert root(folder) == top


def test_a_home_or_the_whole_machine_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    folder = write(tmp_path / "mine", main='module "a" {\n  source = "../modules/a"\n}\n')
    with pytest.raises(ExampleError, match=rf"{folder}: found modules or files up to {tmp_path}, which would have to"):
        root(folder)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExampleError, match=r"main\.tf cannot be read: 'utf-8' codec"):
        Configuration.read(tmp_path)
