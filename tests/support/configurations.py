"""Small configurations that need no provider, in workspaces of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.deployment.terraform.environment import environment
from nomad_testkit.deployment.terraform.process import Runner
from nomad_testkit.deployment.terraform.workspace import Workspace
from nomad_testkit.examples.configuration import Configuration
from nomad_testkit.examples.terraform_tool import Tool
from nomad_testkit.wait import Deadline

OUTPUTS = """
output "asg_name_servers" { value = "some-servers" }
output "asg_name_clients" { value = "some-clients" }
"""


def write(folder: Path, **files: str) -> Path:
    """Write a configuration: ``main="..."`` is main.tf; a name with a dot in it stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / (name if "." in name else f"{name}.tf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@dataclass
class Applying:
    """A workspace with what runs in it."""

    workspace: Workspace
    runner: Runner
    said: list[str]

    def prepare(self) -> None:
        self.workspace.prepare(self.runner, deadline=Deadline.after(60), progress=self.said.append)

    def apply(self, seconds: float = 60) -> dict[str, Any]:
        self.prepare()
        self.workspace.apply(self.runner, deadline=Deadline.after(seconds), progress=self.said.append)
        return self.workspace.outputs(self.runner)

    def destroy(self, seconds: float = 60) -> list[str]:
        return self.workspace.destroy(
            self.runner, remedy="Try it again.", deadline=Deadline.after(seconds), progress=self.said.append
        )

    @property
    def state(self) -> list[str]:
        return self.workspace.in_state(self.runner)


def applying(
    tool: Tool,
    configuration: Path,
    run_folder: Path,
    *,
    suggested: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Applying:
    """Put a configuration into a workspace in `run_folder`; `environ` is added to this process's environment."""
    run_folder.mkdir(mode=0o700, exist_ok=True)
    environ = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, **(environ or {})}
    workspace = Workspace.load(run_folder) or Workspace.create(
        run_folder,
        Configuration.read(configuration),
        tool,
        suggested=suggested or {},
        given=given or {},
        environ=environ,
    )
    whole = environment(
        environ,
        variables=workspace.variables,
        tags={"nomad-testkit-run": "nt-1"},
        plugins=run_folder.parent / "plugins",
        region="eu-west-1",
        endpoint_url="http://127.31.255.254",
        credentials={"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "hidden"},
    )
    runner = Runner(tool, workspace.directory, whole, workspace.log, workspace.secrets)
    return Applying(workspace, runner, [])
