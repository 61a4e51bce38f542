"""The bootstrap: what it finds missing, what it runs, and what it says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nomad_testkit import setup
from nomad_testkit.images.cache import Cache


class Runner:
    """Notes commands instead of running them; a virtual environment becomes a folder with an empty tox."""

    def __init__(self, *, fails: str = "") -> None:
        self.commands: list[list[str]] = []
        self.fails = fails

    def __call__(self, command: list[str], seconds: int) -> None:
        self.commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            (Path(command[3]) / "bin").mkdir(parents=True)
        if self.fails and self.fails in command:
            raise setup.SetupError("told")
        if "install" in command and setup.TOX[0] in command:
            (Path(command[0]).parent / "tox").touch()


def problems(
    *, system: str = "Linux", python: tuple[int, int] = (3, 11), root: bool = True, apt: bool = True, lacking: str = ""
) -> list[setup.Problem]:
    return setup.problems(system=system, python=python, root=root, has_apt=apt, lacking=lacking.split())


def test_a_machine_that_can_be_made_ready_has_no_problems() -> None:
    assert problems(lacking="nftables") == []
    assert problems(apt=False) == []
    assert problems(python=(3, 14)) == []


def test_all_problems_are_listed_at_once_with_a_remedy() -> None:
    found = problems(system="Darwin", python=(3, 10), root=False, apt=False, lacking="nftables gpg")
    assert [problem.what for problem in found] == [
        "found the system Darwin, expected Linux",
        "found Python 3.10, expected 3.11 or newer",
        "the user is not root",
        "system packages are missing and there is no apt-get: nftables, gpg",
    ]
    assert all(problem.remedy for problem in found)
    assert found[2].remedy == "run the same command with sudo"


def test_missing_packages_are_found_by_program_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").touch()
    needs = (
        setup.Need("there", program="sh"),
        setup.Need("program-package", program="no-such-program"),
        setup.Need("keys-package", file=str(tmp_path / "keys")),
        setup.Need("file-package", file=str(tmp_path / "gone")),
    )
    monkeypatch.setattr(setup, "NEEDS", needs)
    monkeypatch.setattr(setup, "GO_NEEDS", (setup.Need("compiler", program="no-such-compiler"),))
    lacking = ["program-package", "file-package"]
    assert setup.lacking_packages(has_venv=True, has_go=False, python=(3, 11)) == lacking
    more = [*lacking, "compiler", "python3.12-venv"]
    assert setup.lacking_packages(has_venv=False, has_go=True, python=(3, 12)) == more
    outside_of_path = setup.Need("golang-go", program="no-such-program", file=str(tmp_path / "go"))
    assert not outside_of_path.met()
    (tmp_path / "go").touch()
    assert outside_of_path.met()


def test_packages_are_named_before_apt_is_called() -> None:
    runner, said = Runner(), list[str]()

    def say(line: str) -> None:
        assert runner.commands == []
        said.append(line)

    setup.install(["nftables", "gpg"], runner, say)
    assert said == ["installing missing system packages: nftables gpg"]
    update, install = runner.commands
    assert update[-1] == "update"
    assert install[-4:] == ["--yes", "--no-install-recommends", "nftables", "gpg"]
    assert "DPkg::Lock::Timeout=600" in install


@pytest.mark.parametrize(
    "environment",
    [
        {"NOMAD_TESTKIT_CACHE": "/elsewhere"},
        {"NOMAD_TESTKIT_CACHE": "~/here", "HOME": "/home/someone"},
        {"NOMAD_TESTKIT_CACHE": "", "XDG_CACHE_HOME": "/xdg"},
        {"XDG_CACHE_HOME": "", "HOME": "/home/someone"},
        {"HOME": "/home/someone"},
    ],
)
def test_the_cache_folder_is_the_caches(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOMAD_TESTKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert setup.cache_root(environment) == Cache().root


def test_the_environment_is_keyed_by_what_it_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = setup.environment_folder(tmp_path, python="/usr/bin/python3", version="3.11.2")
    assert first.parent == tmp_path / "tools"
    assert first.name.startswith("tox-py3.11.2-")
    assert first != setup.environment_folder(tmp_path, python="/opt/python3", version="3.11.2")
    assert first != setup.environment_folder(tmp_path, python="/usr/bin/python3", version="3.11.3")
    monkeypatch.setattr(setup, "TOX", ("tox==99",))
    assert first != setup.environment_folder(tmp_path, python="/usr/bin/python3", version="3.11.2")


@pytest.mark.parametrize("half", ["complete", "bin/tox"])
def test_the_environment_is_made_once_and_again_where_it_was_half_made(tmp_path: Path, half: str) -> None:
    runner, folder = Runner(), tmp_path / "tools" / "tox"
    setup.make_environment(folder, runner, print)
    assert runner.commands[0] == [sys.executable, "-m", "venv", str(folder)]
    assert runner.commands[1][-4:] == ["install", "--quiet", *setup.TOX]
    setup.make_environment(folder, runner, print)
    assert len(runner.commands) == 2
    (folder / half).unlink()
    (folder / "old").touch()
    setup.make_environment(folder, runner, print)
    assert len(runner.commands) == 4
    assert not (folder / "old").exists()


def test_a_failure_leaves_no_environment(tmp_path: Path) -> None:
    folder = tmp_path / "tools" / "tox"
    with pytest.raises(setup.SetupError):
        setup.make_environment(folder, Runner(fails=setup.TOX[0]), print)
    assert not folder.exists()


def test_two_at_once_make_one_environment(tmp_path: Path) -> None:
    folder = tmp_path / "tools" / "tox"
    making, go_on = threading.Event(), threading.Event()

    class Slow(Runner):
        def __call__(self, command: list[str], seconds: int) -> None:
            making.set()
            assert go_on.wait(10)
            super().__call__(command, seconds)

    def say(line: str) -> None:
        if "another run is at work" in line:
            go_on.set()

    slow, second = Slow(), Runner()
    thread = threading.Thread(target=setup.make_environment, args=(folder, slow, print))
    thread.start()
    assert making.wait(10)
    setup.make_environment(folder, second, say)
    thread.join(10)
    assert len(slow.commands) == 2
    assert second.commands == []


def test_a_command_that_fails_shows_what_it_said() -> None:
    with pytest.raises(setup.SetupError, match=r"(?s)ended with status 3; its output:\nbad news\nRemedy"):
        setup.run_command(["sh", "-c", "echo bad news >&2; exit 3"], 30)
    with pytest.raises(setup.SetupError, match="no-such-program cannot be run"):
        setup.run_command(["no-such-program"], 30)


def test_pips_settings_are_handed_to_uv() -> None:
    config = (
        ":env:.cert='/ca.pem'\nglobal.index-url='https://mirror/simple'\nglobal.extra-index-url='https://a https://b'\n"
    )
    assert setup.uv_settings(config, {"SSL_CERT_FILE": "/other.pem"}) == {
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_INDEX": "https://a https://b",
    }
    assert setup.uv_settings("", {}) == {}


def run_main(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nomad_testkit.setup", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_without_a_command_it_shows_its_usage() -> None:
    ended = run_main()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: python3 -m nomad_testkit.setup COMMAND")
    ended = run_main("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "tox -e colocated" in ended.stdout


def test_the_command_runs_with_the_environment_first_in_path(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "tox"
    program.write_text('#!/bin/sh\necho "$0 $* $UV_INDEX"\nexit 7\n')
    program.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from nomad_testkit import setup\n"
        f"setup.become(['tox', '-e', 'unit'], Path({str(tmp_path)!r}), {{'UV_INDEX': 'there'}})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (7, f"{program} -e unit there\n")
    with pytest.raises(setup.SetupError, match="no-such-program cannot be run"):
        setup.become(["no-such-program"], tmp_path, {})


def test_only_the_standard_library_is_imported() -> None:
    tree = ast.parse(Path(setup.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported - set(sys.stdlib_module_names) == set()


def test_what_only_some_tests_need_is_installed_by_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "check", lambda lacking: [])
    runner, lines = Runner(), list[str]()
    there, missing = setup.Need("shell", program="sh"), setup.Need("missing-package", program="no-such-program")
    monkeypatch.setattr(setup, "OPTIONAL_NEEDS", {"sh": there, "missing": missing})
    assert setup.install_optional(["sh"], runner, lines.append) == 0
    assert runner.commands == []
    assert setup.install_optional(["sh", "missing"], runner, lines.append) == 0
    assert runner.commands[-1][-1] == "missing-package"
    assert "shell" not in runner.commands[-1]
    assert setup.install_optional(["missing"], Runner(fails="missing-package"), lines.append) == 1
    assert "put missing into PATH" in capsys.readouterr().err
    assert setup.install_optional(["other"], runner, lines.append) == 2
    assert "names other; expected one or more of: sh missing" in capsys.readouterr().err


def test_of_two_suites_that_need_it_at_the_same_time_one_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup, "check", lambda lacking: [])
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(tmp_path))
    file, second_waits = tmp_path / "program", threading.Event()
    monkeypatch.setattr(setup, "OPTIONAL_NEEDS", {"it": setup.Need("package", file=str(file))})
    commands: list[list[str]] = []
    lines: list[str] = []

    def run(command: list[str], seconds: int) -> None:
        commands.append(command)
        if "update" in command:
            other.start()
            assert second_waits.wait(60)
        else:
            file.touch()

    def say(line: str) -> None:
        lines.append(line)
        if "waiting for it" in line:
            second_waits.set()

    results: list[int] = []
    other = threading.Thread(target=lambda: results.append(setup.install_optional(["it"], run, say)))
    assert setup.install_optional(["it"], run, say) == 0
    other.join(60)
    assert results == [0]
    assert [command[-1] for command in commands] == ["update", "package"]
    assert len([line for line in lines if "waiting for it" in line]) == 1


@pytest.mark.parametrize("name", ["packer", "chromium", "go"])
def test_what_only_some_tests_need_is_not_part_of_every_run(name: str) -> None:
    assert name in setup.OPTIONAL_NEEDS
    assert name not in [need.package for need in setup.NEEDS + setup.GO_NEEDS]


@pytest.mark.parametrize(
    ("command", "expected"),
    [("tox", {"TOX_PARALLEL": "2"}), ("tox -e unit", {}), ("tox --version", {}), ("pytest", {})],
)
def test_all_suites_run_two_at_a_time_and_one_that_is_named_alone(command: str, expected: dict[str, str]) -> None:
    assert setup.tox_settings(command.split()) == expected


def test_the_users_own_settings_win(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "tox"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$TOX_PARALLEL"\n')
    fake.chmod(0o755)
    code = (
        "from pathlib import Path; from nomad_testkit import setup; "
        f"setup.become(['tox'], Path({str(tmp_path)!r}), setup.tox_settings(['tox']))"
    )
    for own, expected in ({}, "2"), ({"TOX_PARALLEL": "0"}, "0"):
        environment = {**os.environ, **own}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.strip() == expected
