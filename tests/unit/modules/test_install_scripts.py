"""install_consul and install_nomad: what they download and check, and the folders they leave."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import host_install
import install_consul
import install_nomad
import pytest
from fake_host import SCRIPTS, FakeHost, usage_of
from file_site import FileSite, file_site
from host_commons import HostFault

SCRIPT = "#!/bin/sh\necho 'Consul v1.14.0'\n"


def make_zip(path: Path, agent: str = "consul", content: str = SCRIPT) -> tuple[str, str]:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(agent, content)
    return f"file://{path}", hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    made.users = {"root"}
    made.answers[f"{tmp_path}/opt/bin/consul.new version"] = (0, "Consul v1.14.0\nRevision 0")
    made.answers[f"{tmp_path}/opt/bin/nomad.new version"] = (0, "Nomad v1.6.1\nBuildDate 0")
    return made


def consul(host: FakeHost, tmp_path: Path, *arguments: str) -> int:
    path = ["--path", str(tmp_path / "opt")]
    return install_consul.main([*path, *arguments], host, link_dir=tmp_path / "links")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "one of --version and --download-url is required"),
        ("--version 1.14.0 --download-url https://a/b.zip", "exclude each other"),
        ("--version v1.14.0", "'v1.14.0' is refused; expected a version such as 1.2.3, without a v"),
        ("--download-url ftp://a/b.zip", "expected a URL that begins with https://, http:// or file://"),
        ("--download-url http://a/b.zip", "--download-url with http:// needs --sha256"),
        ("--version 1.14.0 --sha256 abc", "'abc' is refused; expected 64 hexadecimal digits"),
        ("--version 1.14.0 --path opt", "'opt' is refused; expected an absolute path"),
        ("--version 1.14.0 --cert-file-path /c", "--key-file-path belong together"),
        ("--version 1.14.0 --ca-file-path /nonexistent", "'/nonexistent' is refused; expected a file"),
        ("--version 1.14.0 --verbose", "unrecognized arguments: --verbose"),
    ],
)
def test_bad_options_end_with_usage(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_of(partial(host_install.parse_install, "consul"), options, capsys)
    assert said.startswith("usage: install-consul")
    assert message in said


def test_consul_is_laid_out_as_upstream_does(host: FakeHost, tmp_path: Path) -> None:
    url, digest = make_zip(tmp_path / "consul.zip")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text(name)
    tls = [f"--{name}-file-path={tmp_path}/{name}.pem" for name in ("ca", "cert", "key")]
    assert consul(host, tmp_path, "--download-url", url, "--sha256", digest, *tls) == 0
    opt = tmp_path / "opt"
    assert host.commands[0].startswith("useradd --system")
    assert host.commands[0].endswith(" consul")
    assert (opt / "bin" / "consul").read_text() == SCRIPT
    for file, mode in (("bin/consul", 0o755), ("bin/run-consul", 0o755), ("tls/key.pem", 0o600)):
        assert (opt / file).stat().st_mode & 0o777 == mode
    assert (opt / "bin" / "run-consul").read_text().startswith(f"#!{sys.executable} -ES\n")
    assert list((opt / "data").iterdir()) == list((opt / "config").iterdir()) == []
    assert (opt / "tls" / "ca" / "ca.pem").read_text() == "ca.pem"
    assert (tmp_path / "links" / "consul").resolve() == opt / "bin" / "consul"
    for name in ("opt", "bin", "config", "data", "tls", "ca", "run-consul", "key.pem"):
        assert host.owners[name] == "consul"


def test_nomad_is_laid_out_likewise_and_again(host: FakeHost, tmp_path: Path) -> None:
    url, _ = make_zip(tmp_path / "nomad.zip", "nomad")
    arguments = ["--path", str(tmp_path / "opt"), "--download-url", url]
    for _ in range(2):
        assert install_nomad.main(arguments, host, link_dir=tmp_path / "links") == 0
    assert (tmp_path / "opt" / "bin" / "wait_for_consul.py").exists()
    assert (tmp_path / "links" / "nomad").resolve() == tmp_path / "opt" / "bin" / "nomad"
    assert len([command for command in host.commands if command.startswith("useradd")]) == 1


@pytest.mark.parametrize("agent", ["consul", "nomad"])
def test_the_installed_run_script_has_all_that_it_imports(host: FakeHost, tmp_path: Path, agent: str) -> None:
    url, _ = make_zip(tmp_path / "agent.zip", agent)
    main = install_consul.main if agent == "consul" else install_nomad.main
    assert main(["--path", str(tmp_path / "opt"), "--download-url", url], host, link_dir=tmp_path / "links") == 0
    assert not list((tmp_path / "opt" / "bin").glob("*.new"))
    installed = {path.stem for path in (tmp_path / "opt" / "bin").glob("*.py")}
    own = {path.stem for path in SCRIPTS.glob("*.py")}
    imports = "import sys; sys.path.insert(0, sys.argv[1]); import " + ", ".join(sorted(installed))
    loaded = subprocess.run(
        [sys.executable, "-ES", "-c", f"{imports}; print(*sys.modules)", str(tmp_path / "opt" / "bin")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert own & set(loaded.stdout.split()) == installed
    shown = subprocess.run(
        [str(tmp_path / "opt" / "bin" / f"run-{agent}"), "--bogus"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert shown.returncode == 2
    assert "--client" in shown.stderr


def test_a_wrong_checksum_installs_nothing(host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, digest = make_zip(tmp_path / "consul.zip")
    assert consul(host, tmp_path, "--download-url", url, "--sha256", "0" * 64) == 1
    assert f"{url} has the SHA-256 {digest}, but --sha256 says {'0' * 64}" in capsys.readouterr().err
    assert not (tmp_path / "opt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>an error page</html>", "is not a zip file"),
        (None, "No such file or directory"),
        ("nomad", "has no file `consul` in it"),
    ],
)
def test_a_download_that_is_no_zip_of_the_agent_is_refused(
    host: FakeHost, tmp_path: Path, content: bytes | str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "consul.zip"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        make_zip(path, content)
    assert consul(host, tmp_path, "--download-url", f"file://{path}") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "links").exists()


def test_what_is_there_already_stays(host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = make_zip(tmp_path / "consul.zip")
    (tmp_path / "opt" / "data").mkdir(parents=True)
    (tmp_path / "opt" / "data" / "node-id").write_text("1")
    assert consul(host, tmp_path, "--download-url", url) == 0
    assert "opt/data is not empty" in capsys.readouterr().err
    link = tmp_path / "links" / "consul"
    link.unlink()
    link.write_text("another")
    assert consul(host, tmp_path, "--download-url", url) == 1
    assert "is no link" in capsys.readouterr().err
    assert link.read_text() == "another"


def test_a_program_that_does_not_run_is_refused(
    host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = make_zip(tmp_path / "consul.zip")
    host.answers[f"{tmp_path}/opt/bin/consul.new version"] = (126, "Exec format error")
    assert consul(host, tmp_path, "--download-url", url) == 1
    assert "does not run on this host" in capsys.readouterr().err
    assert not (tmp_path / "opt" / "bin" / "consul").exists()


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileSite]:
    with file_site() as site:
        monkeypatch.setattr(host_install, "RELEASES", site.url)
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        yield site


BASE = "/consul/1.14.0/consul_1.14.0"


def publish(releases: FileSite, tmp_path: Path, digest: str | None = None) -> None:
    _, right = make_zip(tmp_path / "release.zip")
    releases.files[f"{BASE}_linux_amd64.zip"] = (tmp_path / "release.zip").read_bytes()
    sums = f"{'1' * 64}  consul_1.14.0_linux_arm64.zip\n{digest or right}  consul_1.14.0_linux_amd64.zip\n"
    releases.files[f"{BASE}_SHA256SUMS"] = sums.encode()


def test_a_release_is_checked_against_its_sums(host: FakeHost, tmp_path: Path, releases: FileSite) -> None:
    publish(releases, tmp_path)
    releases.failures = [0, 503, 429]
    assert consul(host, tmp_path, "--version", "1.14.0") == 0
    assert releases.requests == [f"{BASE}_SHA256SUMS", *[f"{BASE}_linux_amd64.zip"] * 3]


@pytest.mark.parametrize(
    ("version", "digest", "reports", "message"),
    [
        ("1.14.0", "2" * 64, "1.14.0", f"SHA256SUMS says {'2' * 64}: nothing is installed"),
        ("1.14.0", None, "1.14.1", "holds consul 1.14.1, but --version is 1.14.0"),
        ("9.9.9", None, "", "consul_9.9.9_SHA256SUMS: HTTP 404"),
    ],
)
def test_a_release_that_is_not_there_or_another_one_is_refused(
    version: str, digest: str | None, reports: str, message: str, host: FakeHost, tmp_path: Path, releases: FileSite,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    publish(releases, tmp_path, digest)
    host.answers[f"{tmp_path}/opt/bin/consul.new version"] = (0, f"Consul v{reports}")
    assert consul(host, tmp_path, "--version", version) == 1
    assert message in capsys.readouterr().err
    assert len(releases.requests) == (2 if reports else 1)


def test_an_architecture_without_releases_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(HostFault, match="this host is riscv64, and only amd64, arm64"):
        host_install.architecture()


def test_the_interpreter_is_named_unless_the_kernel_could_not_read_it() -> None:
    source = "#!/usr/bin/env python3\nrest\n"
    assert host_install.with_interpreter(source, "/usr/bin/python3") == "#!/usr/bin/python3 -ES\nrest\n"
    assert host_install.with_interpreter(source, "/" + "x" * 127) == source
    assert host_install.with_interpreter(source, "") == source
