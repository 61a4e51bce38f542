"""Where a Consul or Nomad binary comes from, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_site import BREAKS_OFF, FileSite, file_site

from nomad_testkit.errors import AgentSourceError
from nomad_testkit.images.agents import (
    DEFAULT_CONSUL,
    DEFAULT_NOMAD,
    Agent,
    AgentName,
    build,
    get_agent,
    golang,
    identify,
    preflight,
    release,
)
from nomad_testkit.images.agents.binary import elf_architecture, machine_architecture, reported_version
from nomad_testkit.images.cache import Cache

HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
ELSEWHERE = {"amd64": "arm64", "arm64": "amd64"}[HERE]


def program(says: str, architecture: str = HERE) -> bytes:
    """Make a whole ELF executable that writes `says` and exits with 0."""
    message = says.encode()
    base, start = 0x400000, 64 + 56
    if architecture == "amd64":
        length_of_code = 36
        code = (
            b"\xb8\x01\x00\x00\x00"  # mov eax, 1 (write)
            b"\xbf\x01\x00\x00\x00"  # mov edi, 1 (stdout)
            + (b"\x48\xbe" + struct.pack("<Q", base + start + length_of_code))  # mov rsi, message
            + (b"\xba" + struct.pack("<I", len(message)))  # mov edx, length
            + b"\x0f\x05"  # syscall
            b"\xb8\x3c\x00\x00\x00"  # mov eax, 60 (exit)
            b"\x31\xff"  # xor edi, edi
            b"\x0f\x05"  # syscall
        )
    else:

        def movz(register: int, value: int) -> int:
            return 0xD2800000 | value << 5 | register

        offset = 7 * 4
        instructions = [
            movz(0, 1),
            0x10000001 | (offset >> 2) << 5,  # adr x1, message
            movz(2, len(message)),
            movz(8, 64),  # write
            0xD4000001,  # svc 0
            movz(0, 0),
            movz(8, 93),  # exit
            0xD4000001,
        ]
        code = struct.pack("<8I", *instructions)
    machine = {"amd64": 62, "arm64": 183}[architecture]
    size = start + len(code) + len(message)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + code + message


@pytest.fixture
def binary(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "agent"
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def lines() -> list[str]:
    return []


def publish(site: FileSite, name: str, version: str, content: bytes, *, architecture: str = HERE) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("LICENSE.txt", "terms")
        archive.writestr(name, content)
    publish_zip(site, name, version, buffer.getvalue(), architecture)


def publish_zip(site: FileSite, name: str, version: str, content: bytes, architecture: str = HERE) -> None:
    zip_name = f"{name}_{version}_linux_{architecture}.zip"
    site.files[f"/{name}/{version}/{zip_name}"] = content
    sums = f"{'0' * 64}  other.zip\n{hashlib.sha256(content).hexdigest()}  {zip_name}\n"
    site.files[f"/{name}/{version}/{name}_{version}_SHA256SUMS"] = sums.encode()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileSite]:
    with file_site() as served:
        monkeypatch.setenv("NOMAD_TESTKIT_RELEASES_URL", f"{served.url}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield served


@pytest.fixture
def no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "_find_go", lambda: None)


# --- what a binary is


def test_the_elf_header_tells_the_architecture(binary: Callable[[bytes], Path]) -> None:
    for architecture in ("amd64", "arm64"):
        assert elf_architecture(binary(program("", architecture))) == architecture
    header = bytearray(program("", "amd64")[:20])
    header[18:20] = struct.pack("<H", 243)
    assert elf_architecture(binary(bytes(header))) == "riscv64"
    header[5], header[18:20] = 2, struct.pack(">H", 22)  # big-endian
    assert elf_architecture(binary(bytes(header))) == "s390x"
    assert elf_architecture(Path("/proc/self/exe")) == machine_architecture() == HERE


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"#!/bin/sh\nexit 0\n", r"begins with b'#!/b'"),
        (b"\x7fELF\x02\x01\x01", "cut short: it has 7 bytes"),
    ],
)
def test_what_is_no_executable_is_refused(binary: Callable[[bytes], Path], content: bytes, told: str) -> None:
    with pytest.raises(AgentSourceError, match=told):
        elf_architecture(binary(content))


def test_a_machine_that_is_not_supported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(AgentSourceError, match=r"is riscv64; .* amd64 and arm64"):
        machine_architecture()


def test_a_binary_is_asked_for_its_version(binary: Callable[[bytes], Path]) -> None:
    assert reported_version(binary(program("Consul v1.14.0-dev+ent\n"))) == ("consul", "1.14.0-dev+ent")
    with pytest.raises(AgentSourceError, match=r"said 'hello', expected e.g. 'Consul v1.14.0'"):
        reported_version(binary(program("hello")))
    path = binary(program("Nomad v1.6.1\nBuildDate 2023\n"))
    assert reported_version(path) == ("nomad", "1.6.1")
    path.chmod(0o644)
    with pytest.raises(AgentSourceError, match="cannot be run: Permission denied; chmod"):
        reported_version(path)


# --- a binary that the user names


def test_a_given_binary_comes_first(binary: Callable[[bytes], Path], cache: Cache, lines: list[str]) -> None:
    content = program("Consul v1.14.0\n")
    path = binary(content)
    agent = get_agent("consul", "1.14.0", binary=path, cache=cache, progress=lines.append)
    assert agent == Agent("consul", "1.14.0", path, hashlib.sha256(content).hexdigest(), "given")
    assert preflight("consul", "1.14.0", binary=path, cache=cache) == []
    assert lines == []
    assert not cache.root.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (program("Consul v1.15.0\n"), "is consul 1.15.0, wanted is consul 1.14.0; name a binary of that version"),
        (program("Consul v1.14.0-dev\n"), "is consul 1.14.0-dev, wanted is consul 1.14.0"),
        (program("Nomad v1.14.0\n"), "is nomad, wanted is consul"),
        (program("Consul v1.14.0\n", ELSEWHERE), f"is for architecture {ELSEWHERE}, this machine needs {HERE}"),
        (program("Consul v1.14.0\n")[:100], "cannot be run|ended with status"),
    ],
)
def test_another_given_binary_is_refused(
    binary: Callable[[bytes], Path], cache: Cache, content: bytes, told: str
) -> None:
    path = binary(content)
    with pytest.raises(AgentSourceError, match=told):
        get_agent("consul", "1.14.0", binary=path, cache=cache, progress=print)
    (missing,) = preflight("consul", "1.14.0", binary=path, cache=cache)
    assert missing.what == "consul 1.14.0"
    assert str(path) in missing.remedy


def test_a_given_path_without_a_file_is_refused(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(AgentSourceError, match="gone, named as the nomad binary, is not there"):
        get_agent("nomad", "1.6.1", binary=tmp_path / "gone", cache=cache, progress=print)
    with pytest.raises(AgentSourceError, match="is a folder; name an executable file"):
        get_agent("nomad", "1.6.1", binary=tmp_path, cache=cache, progress=print)


# --- the official release


def test_a_release_is_downloaded_checked_and_cached(site: FileSite, cache: Cache, lines: list[str]) -> None:
    content = program("Nomad v9.9.9\n")
    publish(site, "nomad", "9.9.9", content)
    agent = get_agent("nomad", "9.9.9", cache=cache, progress=lines.append)
    assert agent == Agent("nomad", "9.9.9", agent.path, hashlib.sha256(content).hexdigest(), "release")
    assert (agent.path.read_bytes(), agent.path.stat().st_mode & 0o777) == (content, 0o755)
    assert sorted(path.name for path in agent.path.parent.iterdir()) == ["agent.json", "nomad"]
    assert lines[0].startswith("downloading nomad 9.9.9 from http://127.0.0.1")
    site.files.clear()
    site.requests.clear()
    assert get_agent("nomad", "9.9.9", cache=cache, progress=lines.append) == agent
    assert preflight("nomad", "9.9.9", cache=cache) == []
    assert site.requests == []


def test_preflight_asks_for_checksums_only(site: FileSite, cache: Cache) -> None:
    publish(site, "nomad", "9.9.9", program("Nomad v9.9.9\n"))
    assert preflight("nomad", "9.9.9", cache=cache) == []
    assert site.requests == ["/nomad/9.9.9/nomad_9.9.9_SHA256SUMS"]


def test_a_wrong_checksum_is_refused_with_both_values(site: FileSite, cache: Cache) -> None:
    publish(site, "nomad", "1.6.1", program("Nomad v1.6.1\n"))
    sums = site.files["/nomad/1.6.1/nomad_1.6.1_SHA256SUMS"]
    right, wrong = sums.split()[2].decode(), "f" * 64
    site.files["/nomad/1.6.1/nomad_1.6.1_SHA256SUMS"] = sums.replace(right.encode(), wrong.encode())
    # No build instead: somebody may have changed the zip, and the user must know.
    with pytest.raises(AgentSourceError, match=f"has SHA-256 {right}, its SHA256SUMS says {wrong}"):
        get_agent("nomad", "1.6.1", cache=cache, progress=print)
    assert [path for path in cache.root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (program("Nomad v9.9.8\n"), "the release of nomad 9.9.9 is refused: .*is nomad 9.9.8, wanted is nomad 9.9.9"),
        (program("Nomad v9.9.9\n", ELSEWHERE), f"is for architecture {ELSEWHERE}, this machine needs {HERE}"),
    ],
)
def test_a_release_of_something_else_is_refused(site: FileSite, cache: Cache, content: bytes, told: str) -> None:
    publish(site, "nomad", "9.9.9", content)
    with pytest.raises(AgentSourceError, match=told):
        get_agent("nomad", "9.9.9", cache=cache, progress=print)


def test_a_zip_without_the_binary_is_refused(site: FileSite, cache: Cache) -> None:
    publish_zip(site, "nomad", "9.9.9", b"not a zip")
    with pytest.raises(AgentSourceError, match="holds no nomad binary: File is not a zip file"):
        get_agent("nomad", "9.9.9", cache=cache, progress=print)


@pytest.mark.usefixtures("no_go")
def test_when_no_source_has_it_the_reason_of_each_is_told(site: FileSite, cache: Cache) -> None:
    told = (
        r"nomad 9.9.9 cannot be had. Release: .*HTTP 404.* Build: lacks a go.mod to build nomad 9.9.9 from "
        r"\(there is one for 1.6.1\)"
    )
    with pytest.raises(AgentSourceError, match=told):
        get_agent("nomad", "9.9.9", cache=cache, progress=print)
    told = "Release: .*HTTP 404.* Build: lacks Go, to build consul .install Go from"
    with pytest.raises(AgentSourceError, match=told):
        get_agent("consul", "1.14.0", cache=cache, progress=print)
    (missing,) = preflight("consul", "1.14.0", cache=cache)
    assert "HTTP 404" in missing.remedy
    assert "install Go from" in missing.remedy


@pytest.mark.usefixtures("no_go")
def test_a_site_that_lists_no_zip_for_this_machine_is_told(site: FileSite, cache: Cache) -> None:
    publish(site, "nomad", "9.9.9", b"", architecture=ELSEWHERE)
    with pytest.raises(AgentSourceError, match=f"SHA256SUMS lists no nomad_9.9.9_linux_{HERE}.zip"):
        get_agent("nomad", "9.9.9", cache=cache, progress=print)


def test_a_site_that_cannot_be_reached_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Port 1 is refused.
    with pytest.raises(release.ReleaseUnavailable, match=r"cannot be reached .*refused"):
        release.published_sha256("nomad", "1.6.1", HERE, base_url="http://127.0.0.1:1")


def test_a_site_that_is_busy_is_asked_again(site: FileSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "_RETRY_SECONDS", 0.01)
    content = program("Nomad v9.9.9\n")
    publish(site, "nomad", "9.9.9", content)
    site.failures = [503]
    sha256 = release.published_sha256("nomad", "9.9.9", HERE)
    site.failures = [429, BREAKS_OFF]
    path = release.download("nomad", "9.9.9", HERE, sha256, tmp_path, print)
    assert path.read_bytes() == content
    assert len(site.requests) == 5


# --- what a program is


def test_a_program_says_itself_what_it_is(binary: Callable[[bytes], Path]) -> None:
    content = program("Nomad v1.6.2\n")
    path = binary(content)
    assert identify(path) == Agent("nomad", "1.6.2", path, hashlib.sha256(content).hexdigest(), "given")
    path.unlink()
    with pytest.raises(AgentSourceError, match="is not there; name an executable file"):
        identify(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"#!/bin/sh\necho Consul v1.14.0\n", "is not a Linux executable"),
        (program("Vault v1.12.0\n"), "is vault; expected consul or nomad"),
        (program("Consul v1.14.0\n", ELSEWHERE), f"is for architecture {ELSEWHERE}, this machine needs {HERE}"),
    ],
)
def test_what_is_neither_agent_is_refused(binary: Callable[[bytes], Path], content: bytes, said: str) -> None:
    with pytest.raises(AgentSourceError, match=said):
        identify(binary(content))


# --- a build with Go


class FakeGo:
    """A `go` that answers `go env` with `environment` and does `script` (in sh; it makes $out) for `go build`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "go"
        self.answers("go1.26.8 local", "exit 1")

    def answers(self, environment: str, script: str) -> None:
        self.path.write_text(
            f"""#!/bin/sh
            if [ "$1" = env ]; then echo '{environment}'; exit 0; fi
            for word in "$@" "GOFLAGS=$GOFLAGS" "GOWORK=$GOWORK" "GOARCH=$GOARCH" "CGO_ENABLED=$CGO_ENABLED"; do
                echo "$word"
            done > '{self.path}.said'
            while [ "$1" != -o ]; do shift; done; out=$2
            {script}
            """
        )
        self.path.chmod(0o755)

    @property
    def said(self) -> list[str]:
        return Path(f"{self.path}.said").read_text().splitlines()


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    fake = FakeGo(tmp_path)
    monkeypatch.setattr(golang, "_find_go", lambda: str(fake.path))
    monkeypatch.setattr(golang, "_c_toolchain_lacking", lambda name: [])
    return fake


@pytest.mark.parametrize(("name", "version"), [("consul", "1.13.9"), ("consul", "1.14.0"), ("nomad", "1.6.1")])
def test_what_is_pinned_is_what_its_folder_says(name: AgentName, version: str) -> None:
    folder = Path(build.__file__).parent / "gomod" / name / version
    assert f"github.com/hashicorp/{name} v{version}\n" in (folder / "go.mod").read_text()
    assert f"github.com/hashicorp/{name} v{version} h1:" in (folder / "go.sum").read_text()


def test_each_version_of_an_agent_has_a_place_of_its_own_in_the_cache() -> None:
    assert build.pinned_versions("consul") == ("1.13.9", DEFAULT_CONSUL)
    assert build.pinned_versions("nomad") == (DEFAULT_NOMAD,)
    digests = {build.recipe_digest("consul", version) for version in build.pinned_versions("consul")}
    assert len({*digests, build.recipe_digest("nomad", DEFAULT_NOMAD)}) == 3


def test_without_a_release_it_is_built_and_cached(
    site: FileSite, go: FakeGo, cache: Cache, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "built").write_bytes(program("Consul v1.14.0\n"))
    go.answers("go1.26.8 local", f'ls go.mod go.sum && cp \'{tmp_path}/built\' "$out" && chmod 755 "$out"')
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    monkeypatch.setenv("GOWORK", "/elsewhere/go.work")
    agent = get_agent("consul", "1.14.0", cache=cache, progress=lines.append)
    assert agent.source == "build"
    assert agent.path.read_bytes() == program("Consul v1.14.0\n")
    assert sorted(path.name for path in agent.path.parent.iterdir()) == ["agent.json", "consul"]
    assert go.said[-5:] == [
        "github.com/hashicorp/consul",
        "GOFLAGS=-mod=readonly -buildvcs=false",
        "GOWORK=off",
        f"GOARCH={HERE}",
        "CGO_ENABLED=0",
    ]
    assert "no release of consul 1.14.0" in lines[0]
    assert "HTTP 404" in lines[0]
    assert lines[1].startswith(f"building consul 1.14.0 with {go.path}")
    go.answers("go1.26.8 local", "exit 1")
    site.requests.clear()
    assert get_agent("consul", "1.14.0", cache=cache, progress=lines.append) == agent
    assert site.requests == []


def test_a_builds_progress(go: FakeGo, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "_PROGRESS_SECONDS", 0.01)
    go.answers(
        "go1.26.8 local",
        f"""echo 'go: downloading example.com/a v1.0.0'; echo example.com/a; echo example.com/b
        while [ ! -e '{tmp_path}/seen' ]; do sleep 0.01; done; : > "$out" """,
    )

    def progress(line: str) -> None:
        lines.append(line)
        if "1 modules downloaded, 2 packages compiled" in line:
            (tmp_path / "seen").touch()

    (tmp_path / "made").mkdir()
    assert build.build("nomad", "1.6.1", HERE, tmp_path / "made", progress) == tmp_path / "made" / "nomad"
    assert lines[-1].startswith("a build of nomad 1.6.1: ")


def test_a_build_that_fails_shows_what_go_said(site: FileSite, go: FakeGo, cache: Cache) -> None:
    go.answers("go1.26.8 local", "echo 'go: example.com/a: no such host'; exit 3")
    with pytest.raises(AgentSourceError, match=r"(?s)ended with status 3; .*go: example.com/a: no such host"):
        get_agent("nomad", "1.6.1", cache=cache, progress=print)
    assert list(cache.root.rglob("*.tmp")) == []


def test_a_build_of_another_version_is_refused(site: FileSite, go: FakeGo, cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "built").write_bytes(program("Nomad v1.6.1-dev\n"))
    go.answers("go1.26.8 local", f'cp \'{tmp_path}/built\' "$out"; chmod 755 "$out"')
    with pytest.raises(AgentSourceError, match=r"the build of nomad 1.6.1 is refused: .*is nomad 1.6.1-dev, wanted"):
        get_agent("nomad", "1.6.1", cache=cache, progress=print)


def test_an_interrupted_build_ends_gos_children(go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "_PROGRESS_SECONDS", 0.01)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    go.answers("go1.26.8 local", f"sleep 1000 > '{fifo}' & wait")

    def interrupt(line: str) -> None:
        if line.startswith("a build"):
            raise KeyboardInterrupt

    ended = threading.Event()

    def read() -> None:
        # Reaches its end when the last process that can write is gone.
        fifo.read_bytes()
        ended.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    (tmp_path / "made").mkdir()
    with pytest.raises(KeyboardInterrupt):
        build.build("nomad", "1.6.1", HERE, tmp_path / "made", interrupt)
    assert ended.wait(10)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ("go1.26.8 local", None),
        ("go1.24 local", None),
        ("devel go1.27-abcdef local", None),
        ("go1.22.2 auto", None),  # fetches the release that go.mod asks for
        ("go1.22.2 local", "go is 1.22"),
        ("go1.19.8", "go is 1.19"),
        ("", "does not work"),
    ],
)
def test_a_go_that_is_too_old_is_told(go: FakeGo, environment: str, told: str | None) -> None:
    go.answers(environment, "exit 1")
    missing = build.lacking("consul", "1.14.0")
    assert bool(missing) is (told is not None)
    for one in missing:
        assert one.what.startswith("Go 1.24 or newer, to build consul (")
        assert str(told) in one.what
        assert "https://go.dev/dl/" in one.remedy


def test_nomad_needs_a_c_compiler_and_consul_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGo(tmp_path)
    monkeypatch.setattr(golang, "_find_go", lambda: str(fake.path))
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert build.lacking("consul", "1.14.0") == []
    (missing,) = build.lacking("nomad", "1.6.1")
    assert str(missing) == "a C compiler (no-such-compiler), to build nomad: apt-get install gcc libc6-dev"
