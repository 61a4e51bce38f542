"""What install_consul and install_nomad do: get the program, check it, and lay out its folders."""

from __future__ import annotations

import hashlib
import http.client
import platform
import py_compile
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from host_commons import HostFault, Waiting, log, wait_until
from host_options import absolute_path, matching, new_parser, option_of, user_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from host_systemd import Host

RELEASES = "https://releases.hashicorp.com"
LINK_DIR = Path("/usr/local/bin")
DOWNLOAD_SECONDS = 300.0
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
COMMON = ("host_commons.py", "host_metadata.py", "host_options.py", "host_systemd.py")


def install_parser(agent: str) -> argparse.ArgumentParser:
    """Make the parser with the options that both install scripts have."""
    made = new_parser(f"install-{agent}", f"Install {agent.title()} and its run script on this host.")
    add = made.add_argument
    add(
        "--version",
        type=matching(r"[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?", "a version such as 1.2.3, without a v"),
        help=f"the release to get from {RELEASES}",
    )
    add("--path", type=absolute_path, default=Path("/opt", agent), help=f"where to (default: /opt/{agent})")
    add("--user", type=user_name, default=agent, help=f"the owner; made where missing (default: {agent})")
    add(
        "--download-url",
        type=matching(r"(https?|file)://\S+", "a URL that begins with https://, http:// or file://"),
        metavar="URL",
        help="a zip file to install instead of a release",
    )
    add(
        "--sha256",
        type=matching(r"[0-9a-fA-F]{64}", "64 hexadecimal digits"),
        metavar="HEX",
        help="the SHA-256 that the zip file must have",
    )
    add("--ca-file-path", type=absolute_path, metavar="FILE", help="a CA certificate to put into PATH/tls/ca")
    add("--cert-file-path", type=absolute_path, metavar="FILE", help="a certificate to put into PATH/tls...")
    add("--key-file-path", type=absolute_path, metavar="FILE", help="...and its key")
    return made


def parse_install(agent: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; contradictions end with usage and status 2."""
    made = install_parser(agent)
    options = made.parse_args(arguments)
    check_source(made, options)
    check_tls(made, options)
    return options


def check_source(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with usage where it is not clear what to download."""
    if options.version and options.download_url:
        made.error("--version and --download-url exclude each other: a release, or a file of yours")
    if not options.version and not options.download_url:
        made.error("one of --version and --download-url is required")
    if (options.download_url or "").startswith("http://") and not options.sha256:
        made.error("--download-url with http:// needs --sha256: nothing else tells what came over the network")


def check_tls(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with usage where a file for TLS is not there, or only half of what belongs together."""
    if (options.cert_file_path is None) != (options.key_file_path is None):
        made.error("--cert-file-path and --key-file-path belong together: one is given without the other")
    for name in ("ca_file_path", "cert_file_path", "key_file_path"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            made.error(f"argument {option_of(name)}: {str(path)!r} is refused; expected a file that exists")


def download(url: str, target: Path, host: Host) -> None:
    """Download a file, with retries while the other side may recover; raises HostFault naming the URL."""

    def probe() -> None:
        try:
            # The scheme is one of three that the option's type allows.
            with urllib.request.urlopen(url, timeout=30) as source, target.open("wb") as file:  # noqa: S310
                shutil.copyfileobj(source, file)
                wanted = source.headers.get("Content-Length")
                if wanted is not None and int(wanted) != file.tell():
                    raise Waiting(f"{file.tell()} of {wanted} bytes came")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 425, 429):
                raise HostFault(f"{url}: HTTP {error.code} {error.reason}") from None
            raise Waiting(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            # A file that is missing does not appear by waiting, nor does room on the disk.
            if url.startswith("file://") or getattr(error, "filename", None) == str(target):
                raise HostFault(f"{url}: {reason}") from None
            raise Waiting(str(reason) or type(error).__name__) from None

    log(f"downloading {url}")
    wait_until(url, probe, DOWNLOAD_SECONDS, clock=host.clock, interval=1.0, longest=15.0)


def require_sha256(path: Path, wanted: str, url: str, source: str) -> None:
    """Raise HostFault, with both values, where a file is not what it should be."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() != wanted.lower():
        raise HostFault(
            f"{url} has the SHA-256 {digest.hexdigest()}, but {source} says {wanted.lower()}: nothing is installed"
        )


def listed_sha256(text: str, name: str, url: str) -> str:
    """Find a file's checksum in a release's SHA256SUMS."""
    for line in text.splitlines():
        if re.fullmatch(rf"[0-9a-fA-F]{{64}}\s+\*?{re.escape(name)}", line.strip()):
            return line.split()[0]
    raise HostFault(f"{url} lists no {name}")


def architecture() -> str:
    """Name this host's architecture as HashiCorp's releases do."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        known = ", ".join(sorted(set(ARCHITECTURES.values())))
        raise HostFault(f"this host is {machine}, and only {known} can be installed: give --download-url instead")
    return ARCHITECTURES[machine]


def fetch(agent: str, options: argparse.Namespace, folder: Path, host: Host) -> Path:
    """Download the agent's zip file into a folder, check it, and give its path."""
    target = folder / f"{agent}.zip"
    if options.download_url:
        url = options.download_url
        download(url, target, host)
    else:
        name = f"{agent}_{options.version}_linux_{architecture()}.zip"
        base = f"{RELEASES}/{agent}/{options.version}"
        sums_url, sums = f"{base}/{agent}_{options.version}_SHA256SUMS", folder / "SHA256SUMS"
        download(sums_url, sums, host)
        wanted = listed_sha256(sums.read_text(encoding="utf-8", errors="replace"), name, sums_url)
        url = f"{base}/{name}"
        download(url, target, host)
        require_sha256(target, wanted, url, sums_url)
    if options.sha256:
        require_sha256(target, options.sha256, url, "--sha256")
    return target


def install_program(agent: str, archive: Path, bin_dir: Path, options: argparse.Namespace, host: Host) -> Path:
    """Unpack the program, see that it runs here and is the version asked for, and put it in place."""
    url = options.download_url or f"{RELEASES}/{agent}"
    fresh, path = bin_dir / f"{agent}.new", bin_dir / agent
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(agent) as source, fresh.open("wb") as target:
            shutil.copyfileobj(source, target)
    except zipfile.BadZipFile:
        raise HostFault(f"{url} is not a zip file") from None
    except KeyError:
        raise HostFault(f"{url} has no file `{agent}` in it") from None
    fresh.chmod(0o755)
    status, said = host.run([str(fresh), "version"])
    version = re.search(r"\bv(\d+\.\d+\.\d+\S*)", said)
    if status != 0 or version is None:
        fresh.unlink()
        raise HostFault(f"the {agent} of {url} does not run on this host ({platform.machine()}): {said[:300]}")
    if options.version and version[1] != options.version:
        fresh.unlink()
        raise HostFault(f"{url} holds {agent} {version[1]}, but --version is {options.version}")
    host.chown(fresh, options.user)
    fresh.replace(path)
    log(f"{path} is {agent} {version[1]}")
    return path


def make_user(user: str, home: Path, host: Host) -> None:
    """Make a system user that nobody can log in as, unless there is one."""
    try:
        host.ids(user)
    except HostFault:
        shell = next((path for path in ("/usr/sbin/nologin", "/sbin/nologin") if Path(path).exists()), "/bin/false")
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", str(home)]
        status, said = host.run([*command, "--shell", shell, user])
        if status != 0:
            raise HostFault(f"the user {user} cannot be made: {said}") from None


def make_folder(path: Path, user: str, host: Host, mode: int = 0o755) -> None:
    """Make a folder of the user's."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    host.chown(path, user)


def install_scripts(agent: str, extra: Sequence[str], bin_dir: Path, user: str, host: Host) -> None:
    """Put the run script and the modules that it imports beside the program."""
    here = Path(__file__).resolve().parent
    for name in (*COMMON, *extra):
        target = bin_dir / name
        shutil.copyfile(here / name, target)
        target.chmod(0o644)
        host.chown(target, user)
        # Hosts of this image then need not compile it, each at its own start.
        py_compile.compile(str(target), doraise=True)
    source = (here / f"run_{agent}.py").read_text(encoding="utf-8")
    target = bin_dir / f"run-{agent}"
    target.write_text(with_interpreter(source, sys.executable), encoding="utf-8")
    target.chmod(0o755)
    host.chown(target, user)


def install_tls(options: argparse.Namespace, host: Host) -> None:
    """Copy what TLS needs into place; the key only its owner can read."""
    folder = options.path / "tls"
    for path in (folder, folder / "ca"):
        make_folder(path, options.user, host)
    wanted = (
        (options.ca_file_path, folder / "ca", 0o644),
        (options.cert_file_path, folder, 0o644),
        (options.key_file_path, folder, 0o600),
    )
    for source, target_folder, mode in wanted:
        if source is not None:
            target = target_folder / source.name
            target.touch(mode=0o600)
            target.chmod(0o600)
            shutil.copyfile(source, target)
            target.chmod(mode)
            host.chown(target, options.user)


def with_interpreter(source: str, interpreter: str) -> str:
    """Name the interpreter in a script's first line, for a start that nothing outside the script changes.

    Without the environment's PYTHON* (-E) and without site-packages (-S), which also makes a start faster.
    The kernel takes 127 bytes of such a line on older systems; a longer one stays as it is.
    """
    line, rest = source.split("\n", 1)
    named = f"#!{interpreter} -ES"
    usable = interpreter.startswith("/") and " " not in interpreter and len(named) <= 127
    return f"{named if usable else line}\n{rest}"


def link(path: Path, link_dir: Path) -> None:
    """Link a program into a folder of PATH; raises HostFault rather than replace what is no link."""
    target = link_dir / path.name
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        raise HostFault(f"{target} is there already and is no link: remove it, or it would hide {path}")
    link_dir.mkdir(parents=True, exist_ok=True)
    target.symlink_to(path)


def install(agent: str, options: argparse.Namespace, host: Host, extra: Sequence[str], *, link_dir: Path) -> None:
    """Do all that both scripts have in common; raises HostFault where something is not right."""
    bin_dir = options.path / "bin"
    with tempfile.TemporaryDirectory(prefix=f"install-{agent}-") as folder:
        archive = fetch(agent, options, Path(folder), host)
        make_user(options.user, options.path, host)
        for path in (options.path, bin_dir, options.path / "config"):
            make_folder(path, options.user, host)
        make_folder(options.path / "data", options.user, host, mode=0o750)
        program = install_program(agent, archive, bin_dir, options, host)
    if options.ca_file_path or options.cert_file_path or agent == "consul":
        install_tls(options, host)
    install_scripts(agent, extra, bin_dir, options.user, host)
    link(program, link_dir)
    if any((options.path / "data").iterdir()):
        log(
            f"warning: {options.path}/data is not empty. Do not make an image of this host: "
            "all of its instances would have this node's id"
        )
