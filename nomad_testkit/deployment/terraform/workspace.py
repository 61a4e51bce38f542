"""A run's copy of a configuration: applied in the run's folder, and destroyed from the state kept there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.deployment.terraform.environment import VARIABLE, variable_text
from nomad_testkit.deployment.terraform.messages import Output, plain
from nomad_testkit.deployment.terraform.process import Runner
from nomad_testkit.errors import ExampleError, TeardownError, TerraformError
from nomad_testkit.events import Progress
from nomad_testkit.examples.configuration import Configuration, root
from nomad_testkit.examples.terraform_tool import Tool
from nomad_testkit.runs.locks import FileLock
from nomad_testkit.wait import Deadline

FOLDER = "terraform"
STATE = "terraform.tfstate"
_NOTE, _LOG, _GIVEN, _SOURCE = "workspace.json", "terraform.log", "given.tfvars.json", "source"
_OVERRIDE = "zzz_nomad_testkit_override.tf"
"""Terraform merges override files in the order of their names."""
_LEFT_OUT = (".terraform", "terraform.tfstate*", ".terraform.tfstate.lock.info", "*.tfplan", ".git", "__pycache__")
_MOST_BYTES = 256 * 2**20
_LOCK_TIMEOUT = "-lock-timeout=120s"
"""For the program of a killed run to end."""
_OF_THE_CLOUD = ("aws_", "terraform_data", "null_resource", "random_", "time_", "tls_")
"""Providers whose resources end with an embedded cloud, or exist only in the state."""

Environment = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Returns a program's environment with the values for TF_VAR_…"""


@dataclass(frozen=True)
class Workspace:
    """The copy of one configuration, with everything needed to destroy its resources.

    `folder` is in a run's folder and readable by its owner only: a state contains secrets.
    """

    folder: Path
    directory: Path
    """The configuration in the copy."""
    origin: Path
    """The user's configuration."""
    tool: Path
    variables: Mapping[str, str]
    """Passed as TF_VAR_…; the configuration's own tfvars files win."""
    secrets: Sequence[str] = ()

    @classmethod
    def create(
        cls,
        run_folder: Path,
        configuration: Configuration,
        tool: Tool,
        *,
        suggested: Mapping[str, Any],
        given: Mapping[str, Any],
        environ: Mapping[str, str],
    ) -> Workspace:
        """Copy a configuration with the modules beside it.

        `given` beats the configuration's tfvars files, which beat the user's TF_VAR_…, which beat `suggested`; only
        declared variables are passed on. Raise ExampleError if the copy would be too large, or fails.
        """
        folder = run_folder / FOLDER
        top = root(configuration.folder)
        _refuse_large(configuration.folder, top)
        folder.mkdir(mode=0o700)
        copy = folder / _SOURCE
        try:
            shutil.copytree(top, copy, ignore=_left_out)
        except (shutil.Error, OSError) as error:
            raise ExampleError(f"{top} cannot be copied to {copy}: {error}") from error
        copy.chmod(0o700)
        directory = copy / configuration.folder.resolve().relative_to(top)
        declared = configuration.variables
        users = {name.removeprefix(VARIABLE): value for name, value in environ.items() if name.startswith(VARIABLE)}
        texts = {name: variable_text(value) for name, value in suggested.items()} | users
        variables = {name: value for name, value in texts.items() if name in declared}
        # Keep the state in this run, whatever the configuration's backend.
        _write(directory / _OVERRIDE, 'terraform {\n  backend "local" {}\n}\n')
        values = {name: value for name, value in given.items() if name in declared}
        _write(folder / _GIVEN, json.dumps(values, indent=1))
        secrets = configuration.secrets({**variables, **values})
        made = cls(folder, directory, configuration.folder, tool.path, variables, secrets)
        note = {
            "directory": str(directory.relative_to(folder)),
            "origin": str(configuration.folder),
            "tool": str(tool.path),
            "variables": variables,
            "secrets": list(made.secrets),
        }
        _write(folder / _NOTE, json.dumps(note, indent=1))
        return made

    @classmethod
    def load(cls, run_folder: Path) -> Workspace | None:
        """Return the workspace of a run, or None if nothing can have been applied yet."""
        folder = run_folder / FOLDER
        try:
            told = json.loads((folder / _NOTE).read_text())
        except FileNotFoundError:
            return None
        directory, origin = folder / told["directory"], Path(told["origin"])
        return cls(folder, directory, origin, Path(told["tool"]), told["variables"], told["secrets"])

    @property
    def log(self) -> Path:
        """The program's raw output."""
        return self.folder / _LOG

    def log_text(self) -> str:
        """Return the program's output as text, without secrets."""
        said = Output(self.secrets)
        for line in self.log.read_text(errors="replace").splitlines() if self.log.exists() else ():
            said.hear(line)
        return plain("\n".join(said.lines)) + "\n"

    def prepare(self, runner: Runner, *, deadline: Deadline, progress: Progress) -> None:
        """Download modules and providers, and validate the configuration.

        Raise ExampleError, with the program's output, if it is invalid, and TerraformError if the program does not end.
        """
        plugins = Path(runner.environment["TF_PLUGIN_CACHE_DIR"])
        plugins.mkdir(parents=True, exist_ok=True)
        lock = FileLock(plugins / ".nomad-testkit.lock")
        # Concurrent downloads corrupt the provider cache.
        lock.acquire("another run to download its providers")
        try:
            status, said = runner.work(["init", "-input=false", "-no-color"], deadline=deadline, progress=progress)
        finally:
            lock.release()
        if status:
            raise self._refused("init", runner.tool, said)
        found = runner.document(["validate", "-json"])
        if not found.get("valid"):
            said = Output(self.secrets)
            said.diagnose(found.get("diagnostics", ()))
            raise self._refused("validate", runner.tool, said)

    def apply(self, runner: Runner, *, deadline: Deadline, progress: Progress) -> None:
        """Apply the configuration. Raise TerraformError, with the program's output, if that fails."""
        status, said = runner.work(["apply", "-auto-approve", *self._options()], deadline=deadline, progress=progress)
        if status:
            raise TerraformError(
                f"{runner.tool.product} could not apply {self.origin}; its output:\n{said.own_words()}"
            )

    def outputs(self, runner: Runner) -> dict[str, Any]:
        """Return the outputs that are not sensitive. Raise TerraformError if they cannot be read."""
        found = runner.document(["output", "-json"])
        return {name: one["value"] for name, one in found.items() if not one.get("sensitive")}

    def in_state(self, runner: Runner) -> list[str]:
        """List the addresses in the state. Raise TerraformError if it cannot be read."""
        if not (self.directory / STATE).exists():
            return []
        status, printed, complained = runner.ask(["state", "list"])
        if status:
            raise TerraformError(f"`{runner.tool.path.name} state list` failed: {plain(complained)}")
        return printed.split()

    def destroy(self, runner: Runner, *, remedy: str, deadline: Deadline, progress: Progress) -> list[str]:
        """Destroy everything in the state, prove that it is empty, and return what was destroyed.

        Raise TeardownError, with how to try again, and keep the state, if something is left.
        """
        try:
            before = self.in_state(runner)
            if not before:
                return []
            arguments = ["destroy", "-auto-approve", *self._options()]
            status, said = runner.work(arguments, deadline=deadline, progress=progress)
            left = self.in_state(runner)
        except TerraformError as error:
            raise TeardownError(f"{error}\nThe state is kept in {self.directory}. {remedy}") from error
        if status or left:
            lines = "".join(f"\n  - {address}" for address in left)
            raise TeardownError(
                f"{runner.tool.product} could not destroy its resources; left in its state:{lines}\n"
                f"Its own words:\n{said.own_words()}\nThe state is kept in {self.directory}. {remedy}"
            )
        return before

    def elsewhere(self) -> list[str]:
        """List the addresses in the state that did not end with an embedded cloud, such as files."""
        try:
            state = json.loads((self.directory / STATE).read_text())
            resources = state["resources"]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, OSError):
            return [f"everything in {self.directory / STATE}, which cannot be read here"]
        return [
            ".".join(part for part in (one.get("module"), one["type"], one["name"]) if part)
            for one in resources
            if one.get("mode") == "managed" and not one["type"].startswith(_OF_THE_CLOUD)
        ]

    def _options(self) -> list[str]:
        return ["-input=false", "-json", "-no-color", _LOCK_TIMEOUT, f"-var-file={self.folder / _GIVEN}"]

    def _refused(self, command: str, tool: Tool, said: Output) -> ExampleError:
        return ExampleError(f"{self.origin}: `{tool.path.name} {command}` refuses it; its output:\n{said.own_words()}")


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Return the names not to copy: states, plugins, dangling links, and links to a parent folder."""
    here = Path(folder).resolve()
    links = [here / name for name in names if (here / name).is_symlink()]
    moot = [link.name for link in links if not link.exists() or here.is_relative_to(link.resolve())]
    return {*shutil.ignore_patterns(*_LEFT_OUT)(folder, names), *moot}


def _refuse_large(folder: Path, top: Path) -> None:
    total = 0
    for place, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in (".git", ".terraform")]
        total += sum((Path(place) / name).lstat().st_size for name in names)
        if total > _MOST_BYTES:
            why = "" if top == folder.resolve() else ", which holds its modules,"
            raise ExampleError(
                f"{folder}: found more than {_MOST_BYTES // 2**20} MiB in {top}{why} to copy for each run; "
                "expected a folder with only the configuration and its modules"
            )


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
