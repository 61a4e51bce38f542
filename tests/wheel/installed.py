"""The wheel, as a user has it: everything is in it, and it runs its suite far from any checkout.

`tox -e wheel` names this file, which no other run collects, from an environment without nomad_testkit.
"""

from __future__ import annotations

import email
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# What a folder of the checkout is called in the wheel.
FOLDERS = {
    "nomad_testkit": "nomad_testkit",
    "examples": "nomad_testkit/_bundled/examples",
    "fixtures": "nomad_testkit/_bundled/fixtures",
}
# Variables that this run has and a user's has not.
INNER = ("PYTHON", "PYTEST", "NOMAD_", "TOX_", "VIRTUAL_ENV")
INSTALL_SECONDS, RUN_SECONDS = 300, 600
# The variable that reproducible builds take their times from; any will do.
EPOCH = "1700000000"
INI = """\
[pytest]
nomad_example = my-cluster
nomad_servers = 1
nomad_clients = 1
nomad_var =
    cluster_name=mine
"""
# Where every module came from that the run had imported when it ended, and what each host booted from.
CONFTEST = """
import json, sys
from pathlib import Path

import pytest

@pytest.fixture(scope="session", autouse=True)
def amis(nomad_cluster, nomad_target):
    ids = [host.instance_id for host in nomad_cluster.hosts]
    described = nomad_target.client("ec2").describe_instances(InstanceIds=ids)
    found = [one["ImageId"] for group in described["Reservations"] for one in group["Instances"]]
    Path(__file__).with_name("amis.json").write_text(json.dumps(found))

def pytest_sessionfinish():
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    Path(__file__).with_name("imported.json").write_text(json.dumps(sorted(filter(None, files))))
"""


def run(*command: str | Path, seconds: float = INSTALL_SECONDS, cwd: Path = Path("/"), **more: str) -> str:
    """Run a program as a user might; its environment is this one's, with the indexes that it is set up for."""
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=cwd,
        env={**os.environ, **more},
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def uv(*arguments: str | Path) -> None:
    run("uv", *arguments)


def build(checkout: Path, folder: Path) -> dict[str, Path]:
    """Build the source distribution and, from that, the wheel; by their endings."""
    tool = (sys.executable, "-m", "build", "--installer", "uv", "--outdir", folder)
    run(*tool, checkout, SOURCE_DATE_EPOCH=EPOCH)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(CHECKOUT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(release: dict[str, Path]) -> Path:
    return release[".whl"]


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("user") / "venv"
    uv("venv", "--quiet", folder)
    uv("pip", "install", "--quiet", "--python", folder, wheel)
    return folder


@pytest.fixture(scope="module")
def in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_is_in_it(in_wheel: set[str]) -> None:
    wanted = {
        f"{inside}/{path.relative_to(CHECKOUT / folder)}"
        for folder, inside in FOLDERS.items()
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - in_wheel == set()
    # The list above is not empty by mistake: one file of each kind.
    assert {
        "nomad_testkit/py.typed",
        "nomad_testkit/suite/test_cluster.py",
        "nomad_testkit/modules/host_scripts/run_nomad.py",
        "nomad_testkit/images/agents/gomod/nomad/1.6.1/go.sum",
        "nomad_testkit/faults/linearizability/gomod/main.go",
        "nomad_testkit/images/base_image.py",
        "nomad_testkit/_bundled/examples/nomad-consul-colocated-cluster/example.toml",
        "nomad_testkit/_bundled/fixtures/jobs/web.nomad.hcl",
    } <= wanted


def test_nothing_else_is_in_it(in_wheel: set[str]) -> None:
    top = {name.split("/")[0] for name in in_wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"nomad_testkit"}


def test_the_metadata_is_whole(release: dict[str, Path]) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *release.values())
    with zipfile.ZipFile(release[".whl"]) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        assert name.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "nomad-testkit developers"
    assert (metadata["Version"], metadata["Summary"]) == (project["version"], project["description"])
    # The changes of the version are told; its heading gets the day when it is released.
    assert f"## {project['version']} (" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_a_second_build_is_the_same_bytes(release: dict[str, Path], tmp_path: Path) -> None:
    """Of the same files elsewhere, with other times and other modes of files."""
    copy = tmp_path / "elsewhere"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=CHECKOUT).split("\0")
    for name in filter(None, listed):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, target, follow_symlinks=False)
        if not target.is_symlink():
            target.chmod((CHECKOUT / name).stat().st_mode & 0o700)
            os.utime(target, (1_000_000_000, 1_000_000_000))
    again = build(copy, tmp_path / "again")
    assert digests(again) == digests(release)


def digests(release: dict[str, Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release.values()}


def test_the_list_of_what_it_brings_along_is_whole(venv: Path, tmp_path: Path) -> None:
    """As the workflow that publishes makes it (an SBOM in CycloneDX)."""
    listed = tmp_path / "sbom.json"
    tool = (Path(sys.executable).with_name("cyclonedx-py"), "environment", "--output-reproducible")
    run(*tool, "--pyproject", CHECKOUT / "pyproject.toml", "--output-file", listed, venv / "bin" / "python")
    sbom = json.loads(listed.read_text())
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    root = sbom["metadata"]["component"]
    assert (root["name"], root["version"]) == (project["name"], project["version"])
    found = {one["name"].lower(): one["version"] for one in sbom["components"]}
    assert found["moto"] == "5.2.5"
    wanted = {re.split(r"[\[<>=~]", one)[0].lower() for one in project["dependencies"]}
    assert wanted - set(found) == set()


@pytest.fixture
def environment() -> dict[str, str]:
    """What a user's shell has of this run's environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(INNER)}
    return kept | {
        name: os.environ[name] for name in ("NOMAD_TESTKIT_CACHE", "NOMAD_TESTKIT_STATE") if name in os.environ
    }


@pytest.fixture
def own_ami(venv: Path, tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """An AMI that the installed package builds with Packer, from a template of the user's own."""
    template = tmp_path / "my-image"
    (bundled,) = venv.glob(f"lib/*/site-packages/{FOLDERS['examples']}/nomad-consul-ami")
    shutil.copytree(bundled, template)
    program = venv / "bin" / "nomad-testkit"

    def own(*arguments: str | Path) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS
        )
        print(done.stdout, done.stderr)
        assert done.returncode == 0
        return done.stdout.strip()

    made = own("ami", "build", "--template", template)
    yield made
    own("ami", "delete", made)


def test_the_suite_runs_against_an_example_and_an_ami_of_the_users_own(
    venv: Path, own_ami: str, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    (bundled,) = venv.glob(f"lib/*/site-packages/{FOLDERS['examples']}/nomad-consul-colocated-cluster")
    shutil.copytree(bundled, folder / "my-cluster")
    (folder / "pytest.ini").write_text(INI)
    (folder / "conftest.py").write_text(CONFTEST)
    command = [
        str(venv / "bin" / "pytest"),
        "--pyargs",
        "nomad_testkit.suite",
        "-m",
        "colocated",
        "--nomad-ami",
        own_ami,
    ]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == pytest.ExitCode.OK
    lines = done.stdout.splitlines()
    assert f"rootdir: {folder}" in lines
    assert "nomad_testkit: example=my-cluster (nomad_example in pytest.ini)" in [
        line.replace(f"{folder}/", "") for line in lines
    ]
    assert "nomad_testkit: servers=1 (nomad_servers in pytest.ini)" in lines
    assert f"nomad_testkit: ami={own_ami} (option --nomad-ami)" in lines
    assert json.loads((folder / "amis.json").read_text()) == [own_ami] * 2
    outcome = re.search(r"(\d+) passed(?:, \d+ deselected)? in ", lines[-1])
    assert outcome is not None
    assert int(outcome[1]) >= 10
    imported = [Path(name) for name in json.loads((folder / "imported.json").read_text())]
    assert any(path.match("nomad_testkit/suite/*.py") for path in imported)
    assert [path for path in imported if path.is_relative_to(CHECKOUT)] == []
    # No evidence of failures, only what the user and pytest have put there.
    assert sorted(path.name for path in folder.iterdir() if path.name not in ("__pycache__", ".pytest_cache")) == [
        "amis.json",
        "conftest.py",
        "imported.json",
        "my-cluster",
        "pytest.ini",
    ]
