"""Texts of jobs: their encodings and forms, the files that they name, and what sets their variables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.cluster.job_files import (
    JobSource,
    Text,
    explain_files,
    literal,
    read_source,
    variables_of,
    with_files,
)
from nomad_testkit.errors import UsageError

MARKED = b"\xef\xbb\xbfjob"


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (MARKED, ["begins with the byte order mark of UTF-8", "expected none"]),
        ('job "x" {}'.encode("utf-16"), ["byte order mark of UTF-16", "iconv -f UTF-16 -t UTF-8"]),
        (b"\xfe\xff" + 'job "x" {}'.encode("utf-16-be"), ["byte order mark of UTF-16"]),
        ('job "x" {}'.encode("utf-16-le"), ["has zero bytes, as UTF-16 has"]),
        ('job "ä" {}'.encode("latin-1"), ["is not UTF-8: found byte 0xe4 at offset 5", "iconv -f ISO-8859-1"]),
    ],
)
def test_a_file_in_another_encoding_is_told(tmp_path: Path, data: bytes, reasons: list[str]) -> None:
    path = tmp_path / "x.hcl"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_source(path)
    for reason in (str(path), *reasons):
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wbe.nomad.hcl", "; did you mean web.nomad.hcl?"),
        ("mien.hcl", "; did you mean mine.hcl?"),
        ("jbos/mine.hcl", "; did you mean jobs?"),
        ("jobs/miin.hcl", "; did you mean mine.hcl?"),
        ("quite-another-thing", "or the HCL text itself"),
        ("jobs", "no job file jobs, which is a folder"),
    ],
)
def test_a_job_file_that_is_nearly_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    for file in ("mine.hcl", "jobs/mine.hcl"):
        (tmp_path / file).touch()
    with pytest.raises(UsageError, match=re.escape(hint)):
        read_source(name)


# -- JSON

JOB = {"ID": "x", "TaskGroups": [{"Name": "g", "Tasks": None, "Count": None}]}


@pytest.mark.parametrize("wrap", [lambda job: {"Job": job}, lambda job: job])
def test_a_job_in_json_is_read_wrapped_and_bare_with_nomads_defaults(wrap: Any) -> None:
    past = {"Stop": True, "Version": 3, "JobModifyIndex": 9, "ParentID": "p", "Status": "dead"}
    found = JobSource("it", f"\n {json.dumps(wrap({**JOB, **past, 'Type': None}))}", Path()).json()
    assert found == {
        "ID": "x",
        "Name": "x",
        "Type": "service",
        "Datacenters": ["*"],
        "TaskGroups": [{"Name": "g", "Tasks": [], "Count": 1}],
    }


@pytest.mark.parametrize(("given", "count"), [({"Count": 0}, 0), ({"Scaling": {"Min": 2}}, 2), ({}, 1)])
def test_a_groups_count_in_json(given: Mapping[str, Any], count: int) -> None:
    found = JobSource("it", json.dumps({"ID": "x", "TaskGroups": [{"Name": "g", **given}]}), Path()).json()
    assert found is not None
    assert found["TaskGroups"][0]["Count"] == count


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"ID": "x"', "it: expected a job in JSON, found Expecting"),
        ('{"Job": 3}', 'expected an object at "Job", found 3'),
        ('{"a": 1}', 'expected a job with "ID" and "TaskGroups", or such a one in "Job"; found \'a\''),
        ("{}", "found none"),
        ('{"TaskGroups": []}', 'expected a string at "ID", found None'),
        ('{"ID": "x", "TaskGroups": [1]}', 'expected a list of named groups at "TaskGroups", found [1]'),
        ('{"ID": "x", "TaskGroups": "g"}', "found 'g'"),
    ],
)
def test_json_that_is_no_job(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        JobSource("it", text, Path()).json()


def test_hcl_is_left_to_nomad_in_both_of_its_syntaxes() -> None:
    for text in ('job "x" {}', '{"job": {"x": {}}}'):
        assert JobSource("it", text, Path()).json() is None
    assert JobSource("it", '{"ID": "x", "TaskGroups": {}}', Path()).json() is not None


# -- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.txt").write_text('${x} "q"\n', encoding="utf-8")
    (tmp_path / "conf" / "b.txt").write_bytes(b"\xff")
    return tmp_path


def test_files_are_looked_for_beside_the_job(folder: Path) -> None:
    (folder / "x.hcl").write_text('a = file("conf/a.txt")\n', encoding="utf-8")
    assert with_files(read_source(folder / "x.hcl")) == 'a = "$${x} \\"q\\"\\n"\n'


@pytest.mark.parametrize(
    ("call", "becomes"),
    [
        ('file("conf/a.txt")', '"$${x} \\"q\\"\\n"'),
        ('upper(file( "./conf/a.txt" ))', 'upper("$${x} \\"q\\"\\n")'),
        ('"<${file("conf/a.txt")}>"', '"<${"$${x} \\"q\\"\\n"}>"'),
        ('filebase64("conf/b.txt")', '"/w=="'),
        ('fileset("conf", "*.txt")', '["a.txt", "b.txt"]'),
        ('fileexists("conf/c.txt")', "false"),
        ('fileexists("conf/a.txt")', "true"),
        ('basename("conf/a.txt")', '"a.txt"'),
        ('dirname("conf/a.txt")', '"conf"'),
        ("file(var.x)", "file(var.x)"),
        ('file("${var.x}")', 'file("${var.x}")'),
        ('"file(\\"conf/a.txt\\")" # file("conf/a.txt")', '"file(\\"conf/a.txt\\")" # file("conf/a.txt")'),
    ],
)
def test_functions_of_files_are_filled_in(folder: Path, call: str, becomes: str) -> None:
    text = 'job "x" {{\n  meta {{\n    a = {}\n  }}\n}}\n'
    assert with_files(JobSource("it", text.format(call), folder)) == text.format(becomes)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ('file("conf/a.tx")', "conf/a.tx: No such file or directory; did you mean a.txt?"),
        ('file("conf")', "Is a directory"),
        ('file("conf/b.txt")', "expected a file in UTF-8, or filebase64()"),
        ('fileset("conf")', "1 arguments are not what it takes"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(folder: Path, call: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"it: {re.escape(call)}: .*{re.escape(reason)}"):
        with_files(JobSource("it", f"a = {call}\n", folder))


def test_nomads_refusal_of_other_calls_gets_the_remedy() -> None:
    assert explain_files("something else") == "something else"
    assert "handed over as a variable" in explain_files("Error in function call; filesystem function disabled.")


# -- variables

DECLARES = """
# variable "in_a_comment" {}
/*
variable "in_another" {}
*/
variable "tag" {
  type = string
}
variable "number" { type = number }
variable "flag" { type = bool }
variable zones {
  type    = list(string)
  default = []
}
variable "any" {}
variable "by_default" { default = "1" }
variable "list_by_default" { default = [] }
variables {
  short = "x"
  off   = false
}
job "x" {
  group "g" {
    task "t" {
      template {
        data = <<EOF
variable "in_a_heredoc" {}
EOF
      }
    }
  }
}
"""


def text_of(
    variables: Mapping[str, Any], files: list[Path] | None = None, environ: Mapping[str, str] | None = None
) -> str:
    return variables_of(JobSource("it", DECLARES, Path()), variables, files or [], environ or {})


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("tag", "1.10", '"1.10"'),
        ("tag", "1e3", '"1e3"'),
        ("tag", "true", '"true"'),
        ("tag", '["a"]', '"[\\"a\\"]"'),
        ("tag", "${x}", '"$${x}"'),
        ("number", "1e3", '"1e3"'),  # which HCL converts to the number that is declared
        ("flag", "true", "true"),
        ("zones", '["a", "b"]', '["a", "b"]'),
        ("any", "010", '"010"'),
        ("by_default", "010", '"010"'),
        ("list_by_default", "[1]", "[1]"),
        ("short", "true", '"true"'),
        ("off", "true", "true"),
    ],
)
def test_the_declared_type_decides_what_a_text_is(name: str, value: str, written: str) -> None:
    assert text_of({name: Text(value)}) == f"{name} = {written}\n"
    assert text_of({}, environ={f"NOMAD_VAR_{name}": value}) == f"{name} = {written}\n"


@pytest.mark.parametrize("value", ["[", "1\nother = 2", ""])
def test_a_text_that_is_no_expression_is_told(value: str) -> None:
    with pytest.raises(UsageError, match="job variable zones: expected an expression of HCL's"):
        text_of({"zones": Text(value)})


@pytest.mark.parametrize("name", ["in_a_comment", "in_another", "in_a_heredoc", "tga"])
def test_only_what_is_declared_counts(name: str, tmp_path: Path) -> None:
    file = tmp_path / "vars.hcl"
    file.write_text(f'{name} = "x"\n', encoding="utf-8")
    with pytest.raises(UsageError, match=f"cannot take {name}"):
        text_of({name: "x"})
    with pytest.raises(UsageError, match=rf"vars\.hcl for it: .* cannot take {name}"):
        text_of({}, [file])
    assert text_of({}, environ={f"NOMAD_VAR_{name}": "x"}) == ""  # as Nomad passes over it
    with pytest.raises(UsageError, match=r"cannot take tga; did you mean tag\?"):
        text_of({"tga": "x"})


def test_options_win_over_files_the_last_over_the_first_and_these_over_the_environment(tmp_path: Path) -> None:
    first, last = tmp_path / "first.hcl", tmp_path / "last.json"
    first.write_text('tag = "first" # or not\nnumber = 1\nzones = [\n  "a",\n]', encoding="utf-8")
    last.write_text('{"tag": "last ${x}", "short": "s"}', encoding="utf-8")
    environ = {"NOMAD_VAR_number": "9", "NOMAD_VAR_any": "environment", "NOMAD_VAR_short": "environment"}
    lines = text_of({"zones": ["b"]}, [first, last], environ)
    assert sorted(lines.splitlines()) == [
        'any = "environment"',
        "number = 1",
        'short = "s"',
        'tag = "last $${x}"',
        'zones = ["b"]',
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tag = \n", "expected lines such as count = 3, found"),
        ('variable "tag" {}\n', "found a block; a job declares its variables itself"),
        ("{", "expected variables in JSON"),
    ],
)
def test_a_variables_file_that_is_none(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "vars.hcl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=f"{file}.*{reason}"):
        text_of({}, [file])


def test_escapes_that_json_has_and_hcl_has_not() -> None:
    assert literal("\b\f\\b ${ %{ \n") == '"\\u0008\\u000c\\\\b $${ %%{ \\n"'
