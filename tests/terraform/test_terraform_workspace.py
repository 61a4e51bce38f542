"""Configurations applied by a real OpenTofu in workspaces, and what is left when that fails, is cut short or killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from configurations import OUTPUTS, Applying, applying, write

from nomad_testkit.errors import ExampleError, TeardownError, TerraformError
from nomad_testkit.examples.terraform_tool import Tool
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

SECRET = "kept-from-everybody"
FIRST = 'resource "terraform_data" "first" {}\n'
FAILING = """
variable "token" {
  type      = string
  sensitive = true
}
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "echo no room for ${var.token} >&2; exit 3"
  }
}
"""
WAITING = """
variable "sign" { type = string }
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "while true; do touch ${var.sign}; sleep 0.1; done"
  }
}
"""
IN_A_PROCESS = """
import sys
from pathlib import Path
from configurations import applying
from nomad_testkit.examples.terraform_tool import checked

tofu, configuration, run_folder, sign = map(Path, sys.argv[1:])
applying(checked(tofu), configuration, run_folder, given={"sign": str(sign)}).apply()
"""


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_does_not_validate_is_refused_in_the_programs_own_words(tool: Tool, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", main=FIRST, outputs='output "x" {\n  value = terraform_data.frist.id\n}\n')
    with pytest.raises(ExampleError) as caught:
        applying(tool, folder, tmp_path / "run").prepare()
    text = str(caught.value)
    assert f"{folder}: `{tool.path.name} validate` refuses it; its output:\nError: Reference" in text
    assert "on outputs.tf line 2" in text
    assert 'A managed resource "terraform_data" "frist" has not been declared' in text


def test_what_is_no_hcl_is_refused_with_its_line(tool: Tool, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", main=FIRST + "resource {\n")
    with pytest.raises(ExampleError) as caught:
        applying(tool, folder, tmp_path / "run").prepare()
    text = str(caught.value)
    assert f"{folder}: `{tool.path.name} init` refuses it; its output:\nError: " in text
    assert "Missing type for resource" in text or "All resource blocks must have 2 labels" in text
    assert "on main.tf line 2" in text
    assert not re.search(r"[╷│╵\x1b]", text)


def test_values_come_from_where_they_are_most_meant(tool: Tool, tmp_path: Path) -> None:
    declared = "".join(
        f'variable "{name}" {{\n  default = "configuration"\n}}\noutput "{name}" {{\n  value = var.{name}\n}}\n'
        for name in ("plain", "suggested", "environment", "tfvars", "given")
    )
    listed = 'variable "blocks" {\n  type = list(string)\n}\noutput "blocks" {\n  value = var.blocks\n}\n'
    tfvars = 'tfvars = "tfvars"\ngiven = "tfvars"\n'
    folder = write(tmp_path / "mine", main=declared + listed, **{"terraform.tfvars": tfvars})
    one = applying(
        tool,
        folder,
        tmp_path / "run",
        suggested={
            **dict.fromkeys(("suggested", "environment", "tfvars", "given", "undeclared"), "suggested"),
            "blocks": ["10.0.0.0/8", "10.1.0.0/16"],
        },
        given={"given": "given", "undeclared": "given"},
        environ={f"TF_VAR_{name}": "environment" for name in ("environment", "tfvars", "given", "undeclared")},
    )
    assert one.apply() == {
        "plain": "configuration",
        "suggested": "suggested",
        "environment": "environment",
        "tfvars": "tfvars",
        "given": "given",
        "blocks": ["10.0.0.0/8", "10.1.0.0/16"],
    }
    assert "undeclared" not in one.workspace.log.read_text()


def test_the_environment_of_a_user_does_not_disturb(tool: Tool, tmp_path: Path) -> None:
    told = tmp_path / "told"
    provisioner = f'provisioner "local-exec" {{\n    command = "env > {told}"\n  }}'
    folder = write(tmp_path / "mine", main=f'resource "terraform_data" "first" {{\n  {provisioner}\n}}\n')
    one = applying(
        tool,
        folder,
        tmp_path / "run",
        environ={
            "TF_CLI_ARGS": "-no-such-option",
            "TF_CLI_ARGS_apply": "-no-such-option",
            "TF_DATA_DIR": "/nowhere",
            "TF_INPUT": "1",
            "TF_LOG": "trace",
            "TF_LOG_PATH": str(tmp_path / "trace.log"),
            "TF_VAR_first": "1",
            "TF_WORKSPACE": "production",
            "AWS_PROFILE": "production",
            "AWS_SESSION_TOKEN": "production",
            "TF_TOKEN_registry_example_com": "needed",
        },
    )
    assert one.apply() == {}
    assert not (tmp_path / "trace.log").exists()
    seen = dict(line.split("=", 1) for line in told.read_text().splitlines() if "=" in line)
    assert {name: value for name, value in seen.items() if name.startswith("AWS_")} == {
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.31.255.254",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    assert seen["TF_TOKEN_registry_example_com"] == "needed"
    # A shell passes on no name with a dash in it, but a provider is started by none.
    assert one.runner.environment["TF_AWS_DEFAULT_TAGS_nomad-testkit-run"] == "nt-1"
    assert seen["TF_PLUGIN_CACHE_DIR"] == str(tmp_path / "plugins")


def test_a_configuration_is_applied_in_a_copy_with_the_modules_beside_it(tool: Tool, tmp_path: Path) -> None:
    top = write(
        tmp_path / "repository",
        **{
            "modules/host/main.tf": FIRST + 'output "text" {\n  value = file("${path.module}/../files/a.txt")\n}\n',
            "modules/files/a.txt": "from beside",
            "live/test/main.tf": 'terraform {\n  backend "s3" {\n    bucket = "production"\n  }\n}\n'
            'module "host" {\n  source = "../../modules/host"\n}\noutput "text" {\n  value = module.host.text\n}\n',
            "live/test/terraform.tfstate": '{"version": 4, "resources": "those of production"}',
            "live/test/.terraform/terraform.tfstate": "that of another backend",
        },
    )
    (top / "modules" / "all").symlink_to("../..")
    (top / "modules" / "gone").symlink_to("nothing")
    (top / "live" / "test" / "common.tf").symlink_to("../../modules/files/common.tf")
    write(top / "modules" / "files", common='output "common" {\n  value = "linked"\n}\n')
    before = names(top)
    one = applying(tool, top / "live" / "test", tmp_path / "run")
    assert one.apply() == {"text": "from beside", "common": "linked"}
    assert one.state == ["module.host.terraform_data.first"]
    assert names(top) == before
    folder = tmp_path / "run" / "terraform"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert one.workspace.directory == folder / "source" / "live" / "test"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()} == {0o600}
    assert one.workspace.elsewhere() == []
    assert one.destroy() == ["module.host.terraform_data.first"]
    assert one.state == []


def test_sensitive_outputs_are_not_read(tool: Tool, tmp_path: Path) -> None:
    token = f'output "token" {{\n  value = "{SECRET}"\n  sensitive = true\n}}\n'
    one = applying(tool, write(tmp_path / "mine", main=OUTPUTS + token), tmp_path / "run")
    assert one.apply() == {"asg_name_servers": "some-servers", "asg_name_clients": "some-clients"}
    assert SECRET not in one.workspace.log.read_text()


def test_what_fails_half_way_is_told_without_secrets_and_destroyed(tool: Tool, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", main=FIRST + FAILING)
    one = applying(tool, folder, tmp_path / "run", given={"token": SECRET})
    with pytest.raises(TerraformError) as caught:
        one.apply()
    text = str(caught.value)
    assert f"{tool.product} could not apply {folder}; its output:\nError: local-exec provisioner error" in text
    assert "on main.tf line 9, in terraform_data.second" in text
    assert "exit status 3. Output: no room for (hidden)" in text
    assert SECRET not in text
    assert SECRET in one.workspace.log.read_text(), "the program itself shows it"
    assert SECRET not in one.workspace.log_text()
    assert "no room for (hidden)" in one.workspace.log_text()
    assert one.state == ["terraform_data.first", "terraform_data.second"]
    assert one.destroy() == ["terraform_data.first", "terraform_data.second"]
    assert one.state == []


def test_what_cannot_be_destroyed_is_listed_and_its_state_kept(tool: Tool, tmp_path: Path) -> None:
    lock = tmp_path / "protected"
    lock.touch()
    protected = f"""
resource "terraform_data" "second" {{
  provisioner "local-exec" {{
    when    = destroy
    command = "test ! -e {lock} || {{ echo it is protected >&2; exit 1; }}"
  }}
}}
"""
    one = applying(tool, write(tmp_path / "mine", main=FIRST + protected), tmp_path / "run")
    one.apply()
    with pytest.raises(TeardownError) as caught:
        one.destroy()
    text = str(caught.value)
    assert "could not destroy its resources; left in its state:\n  - terraform_data.second\nIts own" in text
    assert "Output: it is protected" in text
    assert f"The state is kept in {one.workspace.directory}. Try it again." in text
    lock.unlink()
    again = applying(tool, tmp_path / "mine", tmp_path / "run")
    assert again.destroy() == ["terraform_data.second"]
    assert again.destroy() == [], "there is nothing any more"


def test_at_the_deadline_it_is_interrupted_and_ends_in_good_order(tool: Tool, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", main=FIRST + WAITING)
    one = applying(tool, folder, tmp_path / "run", given={"sign": str(tmp_path / "sign")})
    with pytest.raises(TerraformError) as caught:
        one.apply(seconds=3)
    assert f"`{tool.path.name} apply` did not end in time and was interrupted" in str(caught.value)
    ended_in_good_order(one)


@pytest.fixture
def process(tool: Tool, tmp_path: Path) -> subprocess.Popen[bytes]:
    """A process that applies a configuration, which has come to what it waits in."""
    folder, sign = write(tmp_path / "mine", main=FIRST + WAITING), tmp_path / "sign"
    support = Path(__file__).parents[1] / "support"
    started = subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS, str(tool.path), str(folder), str(tmp_path / "run"), str(sign)],
        env={**os.environ, "PYTHONPATH": str(support)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def probe() -> Ok[None] | Pending:
        assert started.poll() is None
        return Ok(None) if sign.exists() else Pending("no sign")

    wait_until("the second resource", probe, deadline=Deadline.after(60))
    return started


def test_one_interrupt_of_the_terminal_is_one_interrupt(
    process: subprocess.Popen[bytes], tool: Tool, tmp_path: Path
) -> None:
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    one = applying(tool, tmp_path / "mine", tmp_path / "run")
    assert one.workspace.log_text().count("Interrupt received") == 1
    ended_in_good_order(one)


def test_when_its_process_is_killed_it_ends_by_itself(
    process: subprocess.Popen[bytes], tool: Tool, tmp_path: Path
) -> None:
    process.kill()
    process.wait(60)
    one = applying(tool, tmp_path / "mine", tmp_path / "run")
    # It waits for the lock of what is still ending, and then knows all that was made.
    ended_in_good_order(one)
    assert "Interrupt received" in one.workspace.log_text()


def ended_in_good_order(one: Applying) -> None:
    """Prove that the state tells of all that was made, and that nothing holds its lock."""
    assert one.destroy() == ["terraform_data.first", "terraform_data.second"]
    assert one.state == []
    assert not list(one.workspace.directory.glob(".terraform.tfstate.lock.info"))
    assert "Error acquiring the state lock" not in one.workspace.log_text()


def test_what_is_left_outside_of_a_cloud_that_has_gone(tool: Tool, tmp_path: Path) -> None:
    one = applying(tool, write(tmp_path / "mine", main=FIRST), tmp_path / "run")
    one.apply()
    path = one.workspace.directory / "terraform.tfstate"
    state = json.loads(path.read_text())
    (known,) = state["resources"]
    known = {**known, "type": "aws_instance", "module": "module.servers"}
    state["resources"] += [known, {**known, "type": "local_file", "name": "key"}, {**known, "mode": "data"}]
    path.write_text(json.dumps(state))
    assert one.workspace.elsewhere() == ["module.servers.local_file.key"]
    path.write_text("{")
    assert one.workspace.elsewhere() == [f"everything in {path}, which cannot be read here"]
