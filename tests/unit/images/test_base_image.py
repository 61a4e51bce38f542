"""The base image: what it is keyed by, what making it needs, how its failure reads, and cloud-init's stages in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nomad_testkit.errors import ImageError
from nomad_testkit.images import base_image as module
from nomad_testkit.images.base_image import base_image, image_key, preflight
from nomad_testkit.images.cache import Cache

IMAGE_FILES = Path(module.__file__).with_name("image_files")
PROGRAMS = IMAGE_FILES / "tree/usr/lib/embedded-ec2"
STAGES = {
    "init-local": ["init", "--local"],
    "init": ["init"],
    "modules-config": ["modules", "--mode=config"],
    "modules-final": ["modules", "--mode=final"],
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def fake_mmdebstrap(folder: Path, script: str) -> None:
    program = folder / "mmdebstrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_key_follows_what_the_image_is_made_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = image_key()
    assert image_key() == before
    assert before["suite"] == "bookworm"
    monkeypatch.setattr(module, "PACKAGES", (*module.PACKAGES, "nginx-light"))
    assert image_key() != before
    monkeypatch.undo()
    (tmp_path / "customize.sh").write_text("true\n")
    monkeypatch.setattr(module, "_FILES", tmp_path)
    other = image_key()
    assert other != before
    (tmp_path / "customize.sh").write_text("false\n")
    assert image_key() != other
    monkeypatch.setenv("NOMAD_TESTKIT_MIRROR", "http://mirror.example.com/debian")
    assert image_key()["mirror"] == "http://mirror.example.com/debian"


def test_preflight_lists_all_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: Path) -> None:
    monkeypatch.setattr(module, "_KEYRING", tmp_path / "keyring.gpg")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setenv("PATH", str(path))
    assert [str(item) for item in preflight()] == [
        "mmdebstrap: apt-get install mmdebstrap",
        "Debian's archive keyring: apt-get install debian-archive-keyring",
        "an architecture that the image exists for, not riscv64: use x86_64 or aarch64",
    ]
    fake_mmdebstrap(path, "true")
    (tmp_path / "keyring.gpg").touch()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert preflight() == []


def test_image_is_made_once_with_progress(tmp_path: Path, path: Path) -> None:
    fake_mmdebstrap(
        path,
        f'for argument; do printf "%s\\n" "$argument" >> {tmp_path}/arguments; done\n'
        f"umask > {tmp_path}/umask\n"
        'echo "I: extracting archives..." >&2; echo "W: of no interest" >&2\n'
        'for argument; do test -d "$argument" && mkdir "$argument/etc"; done; true',
    )
    told: list[str] = []
    cache = Cache(tmp_path / "cache")
    folder = base_image(cache, told.append)
    assert (folder / "etc").is_dir()
    assert told == [
        "making the base image: Debian bookworm from http://deb.debian.org/debian",
        "base image: extracting archives...",
    ]
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert "--variant=minbase" in arguments
    assert f'--customize-hook=/bin/sh {IMAGE_FILES}/customize.sh "$1"' in arguments
    assert (tmp_path / "umask").read_text() == "0022\n"
    assert base_image(cache, told.append) == folder
    assert len(told) == 2


def test_failure_quotes_mmdebstrap_with_the_mirror(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_MIRROR", "http://mirror.example.com/debian")
    fake_mmdebstrap(path, 'echo "E: apt-get update failed" >&2; exit 25')
    with pytest.raises(ImageError) as caught:
        base_image(Cache(tmp_path / "cache"), lambda line: None)
    assert str(caught.value) == (
        "mmdebstrap could not make the base image (status 25). Is http://mirror.example.com/debian reachable? "
        "NOMAD_TESTKIT_MIRROR names another mirror. Its last words:\nE: apt-get update failed"
    )
    assert not list((tmp_path / "cache/base-image").glob("[!.]*"))


def test_interrupt_ends_mmdebstrap(tmp_path: Path, path: Path) -> None:
    fake_mmdebstrap(path, f'echo $$ > {tmp_path}/pid; echo "I: downloading" >&2; exec sleep 600')

    def interrupt(line: str) -> None:
        if "downloading" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        base_image(Cache(tmp_path / "cache"), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_shell_programs_of_the_image_parse() -> None:
    for script in (IMAGE_FILES / "customize.sh", PROGRAMS / "cloud-init-stage"):
        subprocess.run(["sh", "-n", str(script)], check=True)


def test_every_unit_that_runs_a_stage_names_one_that_exists() -> None:
    units = {"cloud-init-local": "init-local", "cloud-init": "init"}
    units |= {"cloud-config": "modules-config", "cloud-final": "modules-final"}
    for unit, stage in units.items():
        (dropin,) = (IMAGE_FILES / f"tree/etc/systemd/system/{unit}.service.d").iterdir()
        assert f"ExecStart=/usr/lib/embedded-ec2/cloud-init-stage {stage}\n" in dropin.read_text()
    source = (PROGRAMS / "cloud-init-stages").read_text()
    assert all(f'"{stage}": {json.dumps(arguments)}' in source for stage, arguments in STAGES.items())


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """cloud-init-stages with a cloud-init that notes its arguments and fails where it is told to."""
    package = tmp_path / "packages/cloudinit/cmd"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package.parents[1] / "yaml.py").write_text("class SafeLoader: pass\n")
    (package.parent / "sources").mkdir()
    (package.parent / "sources/__init__.py").touch()
    (package.parent / "sources/DataSourceEc2.py").write_text(
        "class CloudNames: AWS = 'aws'\n"
        "class DataSourceEc2Local: pass\n"
        "class DataSourceEc2: pass\n"
        "datasources = [(DataSourceEc2Local, ('FILESYSTEM',)), (DataSourceEc2, ('FILESYSTEM', 'NETWORK'))]\n"
        "def identify_aws(data): return 'unknown'\n"
    )
    (package / "main.py").write_text(
        "import os, sys\n"
        "from cloudinit.sources import DataSourceEc2\n"
        "def main(arguments):\n"
        "    with open('source', 'w') as file:\n"
        "        names = [source.__name__ for source, _ in DataSourceEc2.datasources]\n"
        "        print(DataSourceEc2.identify_aws({}), *names, file=file)\n"
        "    print(*arguments, flush=True)\n"
        "    log = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "    os.dup2(log, 1)\n"
        "    print('to the log', flush=True)\n"
        "    if '--mode=config' in arguments: raise RuntimeError('broken')\n"
        "    return 2 if '--mode=final' in arguments else 0\n"
    )
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS / "cloud-init-stages"), str(tmp_path / "run/stages")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "packages")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def started(stages: subprocess.Popen[str], tmp_path: Path) -> subprocess.Popen[str]:
    """cloud-init-stages, when it has said that it is ready: here by the marker that it makes before."""
    from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

    def probe() -> Ok[None] | Pending:
        ready = (tmp_path / "run/stages/modules-final.status").exists()
        return Ok(None) if ready else Pending("not there yet")

    wait_until("the stages' files", probe, deadline=Deadline.after(30), interval=0.01)
    return stages


def run_stage(folder: Path, name: str) -> int:
    command = ["sh", str(PROGRAMS / "cloud-init-stage"), name, str(folder / "run/stages")]
    return subprocess.run(command, check=False, timeout=30).returncode


def test_stages_run_in_order_and_their_units_get_their_status(started: subprocess.Popen[str], tmp_path: Path) -> None:
    assert [run_stage(tmp_path, name) for name in STAGES] == [0, 0, 1, 2]
    output, _ = started.communicate(timeout=30)
    assert started.returncode == 0
    assert output.splitlines() == [
        "cloud-init init --local",
        "cloud-init init",
        "cloud-init modules --mode=config",
        "cloud-init modules --mode=config: RuntimeError('broken')",
        "cloud-init modules --mode=final",
    ]
    assert (tmp_path / "log").read_text() == "to the log\n" * 4
    assert (tmp_path / "run/enabled").exists()
    assert (tmp_path / "source").read_text() == "aws DataSourceEc2\n"


def test_stage_fails_when_the_process_of_the_stages_has_died(started: subprocess.Popen[str], tmp_path: Path) -> None:
    started.send_signal(signal.SIGKILL)
    started.wait(timeout=30)
    assert run_stage(tmp_path, "init-local") == 1
