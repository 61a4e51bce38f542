"""The wheel, as a user has it: everything is in it, and it runs its suite far from any checkout.

`tox -e wheel` builds it, installs it and names this file, which no other run collects.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# What a folder of the checkout is called in the wheel.
FOLDERS = {
    "nomad_testkit": "nomad_testkit",
    "examples": "nomad_testkit/_bundled/examples",
    "fixtures": "nomad_testkit/_bundled/fixtures",
}
SECONDS = 400
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


def installed() -> importlib.metadata.Distribution:
    return importlib.metadata.distribution("nomad-testkit")


def test_it_is_no_editable_install() -> None:
    told = json.loads(installed().read_text("direct_url.json") or "{}")
    assert not told.get("dir_info", {}).get("editable"), "run this by `tox -e wheel`"
    assert told["url"].endswith(".whl")


def test_every_file_is_in_it() -> None:
    in_wheel = {str(path) for path in installed().files or ()}
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
        "nomad_testkit/agents/gomod/nomad/go.sum",
        "nomad_testkit/ec2/base_image.py",
        "nomad_testkit/_bundled/examples/nomad-consul-colocated-cluster/example.toml",
        "nomad_testkit/_bundled/fixtures/jobs/web.nomad.hcl",
    } <= wanted


def test_nothing_else_is_in_it() -> None:
    packages = {path.parts[0] for path in installed().files or () if path.parts[0] not in ("..", "__pycache__")}
    assert {name for name in packages if not name.endswith(".dist-info")} == {"nomad_testkit"}


def test_the_suite_runs_against_an_example_of_the_users_own(tmp_path: Path) -> None:
    bundled = installed().locate_file(f"{FOLDERS['examples']}/nomad-consul-colocated-cluster")
    shutil.copytree(str(bundled), tmp_path / "my-cluster")
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "NOMAD_"))}
    kept |= {name: os.environ[name] for name in ("NOMAD_TESTKIT_CACHE",) if name in os.environ}
    pytest_program = Path(sys.executable).with_name("pytest")
    command = [str(pytest_program), "-p", "no:cacheprovider", "--pyargs", "nomad_testkit.suite", "-m", "colocated"]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=SECONDS, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == pytest.ExitCode.OK
    lines = done.stdout.splitlines()
    assert f"rootdir: {tmp_path}" in lines
    assert "nomad_testkit: example=my-cluster (nomad_example in pytest.ini)" in [
        line.replace(f"{tmp_path}/", "") for line in lines
    ]
    assert "nomad_testkit: servers=1 (nomad_servers in pytest.ini)" in lines
    outcome = re.search(r"(\d+) passed(?:, \d+ deselected)? in ", lines[-1])
    assert outcome is not None
    assert int(outcome[1]) >= 10
    imported = [Path(name) for name in json.loads((tmp_path / "imported.json").read_text())]
    assert any(path.match("nomad_testkit/suite/*.py") for path in imported)
    assert [path for path in imported if path.is_relative_to(CHECKOUT) and ".tox" not in path.parts] == []
    # No evidence of failures, no cache of compiled tests: only what the user has put there.
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "conftest.py",
        "imported.json",
        "my-cluster",
        "pytest.ini",
    ]
