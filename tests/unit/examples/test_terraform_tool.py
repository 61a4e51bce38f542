"""Which program applies a configuration, and which are refused: small scripts stand in for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import write
from fake_clusters import deployments_alone, run

from nomad_testkit.errors import PreflightError
from nomad_testkit.examples.terraform_tool import checked, find_tool

PROVIDERS = 'provider "registry.{}/hashicorp/aws" {{\n  version = "5.62.0"\n}}\n'


TESTED, LOCKED = "the one that is tested here", "whose registry .terraform.lock.hcl names"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(path: Path, name: str, says: str, status: int = 0) -> Path:
    program = path / name
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    program.chmod(0o755)
    return program


def test_the_one_that_is_there_is_taken(path: Path, tmp_path: Path) -> None:
    program = put(path, "terraform", "Terraform v1.4.0\non linux_amd64")
    tool = find_tool(None, tmp_path)
    assert (tool.product, tool.version, tool.path, tool.why) == ("Terraform", "1.4.0", program, "")
    assert str(tool) == f"Terraform 1.4.0 ({program})"


@pytest.mark.parametrize(
    ("lock_file", "chosen", "why"),
    [
        ("", "OpenTofu", TESTED),
        (PROVIDERS.format("terraform.io"), "Terraform", LOCKED),
        (PROVIDERS.format("opentofu.org"), "OpenTofu", LOCKED),
        (PROVIDERS.format("terraform.io") + PROVIDERS.format("opentofu.org"), "OpenTofu", TESTED),
    ],
)
def test_of_two_the_one_is_taken_whose_registry_the_lock_file_names(
    lock_file: str, chosen: str, why: str, path: Path, tmp_path: Path
) -> None:
    both = {
        "Terraform": put(path, "terraform", "Terraform v1.11.4"),
        "OpenTofu": put(path, "tofu", "OpenTofu v1.10.10"),
    }
    if lock_file:
        (tmp_path / ".terraform.lock.hcl").write_text(lock_file)
    tool = find_tool(None, tmp_path)
    (other,) = (program for product, program in both.items() if product != chosen)
    assert tool.path == both[chosen]
    assert tool.why == f"{why}, though there is {other}; --nomad-terraform FILE chooses another"


def test_the_one_that_is_named_is_taken_wherever_it_is(path: Path, tmp_path: Path) -> None:
    put(path, "tofu", "OpenTofu v1.10.10")
    named = put(tmp_path, "mine", "Terraform v1.15.0-beta1")
    assert (find_tool(named, tmp_path).version, find_tool(named, tmp_path).product) == ("1.15.0-beta1", "Terraform")


def test_where_there_is_none_it_says_which_would_do(path: Path, tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        find_tool(None, tmp_path)
    (missing,) = caught.value.missing
    assert missing.what == f"tofu or terraform in PATH, to apply {tmp_path}"
    assert missing.remedy == (
        "install OpenTofu 1.6 or newer, below 2.0 (https://opentofu.org/docs/intro/install/) or install Terraform 1.4 "
        "or newer, below 2.0 (https://developer.hashicorp.com/terraform/install); or name one that is elsewhere by "
        "--nomad-terraform FILE"
    )


@pytest.mark.parametrize(
    ("says", "range_"),
    [
        ("Terraform v0.12.31", "Terraform 1.4 or newer, below 2.0 (found 0.12.31, "),
        ("Terraform v1.3.10", "Terraform 1.4 or newer, below 2.0 (found 1.3.10, "),
        ("Terraform v2.0.0", "Terraform 1.4 or newer, below 2.0 (found 2.0.0, "),
        ("OpenTofu v1.5.9", "OpenTofu 1.6 or newer, below 2.0 (found 1.5.9, "),
    ],
)
def test_a_version_that_will_not_do_is_refused(says: str, range_: str, path: Path) -> None:
    program = put(path, "terraform", says)
    with pytest.raises(PreflightError) as caught:
        checked(program)
    (missing,) = caught.value.missing
    assert missing.what == f"{range_}{program})"
    assert "name another by --nomad-terraform FILE: OpenTofu 1.6 or newer, below 2.0 or Terraform 1.4" in missing.remedy


def test_what_is_another_program_is_refused_with_what_it_says(path: Path) -> None:
    program = put(path, "terraform", "Packer v1.9.0", status=1)
    with pytest.raises(PreflightError, match=r"Terraform or OpenTofu \(`.*/terraform version` says 'Packer v1.9.0'\)"):
        checked(program)
    program.chmod(0o644)
    with pytest.raises(PreflightError, match="says 'Permission denied'"):
        checked(program)


def test_the_environment_of_a_user_does_not_disturb(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = path / "terraform"
    program.write_text('#!/bin/sh\necho "Terraform v1.4.${TF_LOG:-0}${TF_CLI_ARGS:-0}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("TF_LOG", "trace")
    monkeypatch.setenv("TF_CLI_ARGS", "-chdir=/")
    assert checked(program).version == "1.4.00"


def test_pytest_ends_before_the_first_test_where_there_is_none(
    path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployments_alone(pytester, monkeypatch)
    pytester.makepyfile("def test_uses_it(nomad_cluster): pass")
    outputs = "".join(f'output "asg_name_{group}" {{\n  value = "x"\n}}\n' for group in ("servers", "clients"))
    folder = write(pytester.path / "mine", outputs=outputs)
    result = run(pytester, "--nomad-example", str(folder))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"  - tofu or terraform in PATH, to apply {folder}: install OpenTofu 1.6 or newer*"])
    put(path, "tofu", "OpenTofu v1.5.0")
    result = run(pytester, "--nomad-example", str(folder))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["  - OpenTofu 1.6 or newer, below 2.0 (found 1.5.0, *"])
