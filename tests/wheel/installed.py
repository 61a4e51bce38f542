"""The wheel, as a user has it: everything is in it, and it runs its suite far from any checkout.

`tox -e wheel` names this file, which no other run collects, from an environment without nomad_testkit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
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
INSTALL_SECONDS, RUN_SECONDS = 300, 400
INI = """\
[pytest]
nomad_example = my-cluster
nomad_servers = 1
nomad_clients = 1
nomad_var =
    cluster_name=mine
"""
# Where every module came from that the run had imported when it ended.
CONFTEST = """
import json, sys
from pathlib import Path

def pytest_sessionfinish():
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    Path(__file__).with_name("imported.json").write_text(json.dumps(sorted(filter(None, files))))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--out-dir", str(folder), str(CHECKOUT))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def uv(*arguments: str) -> None:
    """Run uv, as a user might; its environment is this one's, with the indexes that it is set up for."""
    done = subprocess.run(
        ["uv", *arguments], capture_output=True, text=True, timeout=INSTALL_SECONDS, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr


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


def test_the_suite_runs_against_an_example_of_the_users_own(wheel: Path, tmp_path: Path) -> None:
    venv, folder = tmp_path / "venv", tmp_path / "project"
    uv("venv", "--quiet", str(venv))
    uv("pip", "install", "--quiet", "--python", str(venv), str(wheel))
    (bundled,) = venv.glob(f"lib/*/site-packages/{FOLDERS['examples']}/nomad-consul-colocated-cluster")
    shutil.copytree(bundled, folder / "my-cluster")
    (folder / "pytest.ini").write_text(INI)
    (folder / "conftest.py").write_text(CONFTEST)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(INNER)}
    kept |= {name: os.environ[name] for name in ("NOMAD_TESTKIT_CACHE",) if name in os.environ}
    command = [str(venv / "bin" / "pytest"), "--pyargs", "nomad_testkit.suite", "-m", "colocated"]
    done = subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == pytest.ExitCode.OK
    lines = done.stdout.splitlines()
    assert f"rootdir: {folder}" in lines
    assert "nomad_testkit: example=my-cluster (nomad_example in pytest.ini)" in [
        line.replace(f"{folder}/", "") for line in lines
    ]
    assert "nomad_testkit: servers=1 (nomad_servers in pytest.ini)" in lines
    outcome = re.search(r"(\d+) passed(?:, \d+ deselected)? in ", lines[-1])
    assert outcome is not None
    assert int(outcome[1]) >= 10
    imported = [Path(name) for name in json.loads((folder / "imported.json").read_text())]
    assert any(path.match("nomad_testkit/suite/*.py") for path in imported)
    assert [path for path in imported if path.is_relative_to(CHECKOUT)] == []
    # No evidence of failures, only what the user and pytest have put there.
    assert sorted(path.name for path in folder.iterdir() if path.name not in ("__pycache__", ".pytest_cache")) == [
        "conftest.py",
        "imported.json",
        "my-cluster",
        "pytest.ini",
    ]
