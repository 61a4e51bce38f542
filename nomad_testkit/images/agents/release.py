"""The official release: a zip from the release site, checked against the SHA256SUMS beside it."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nomad_testkit.errors import AgentSourceError, WaitTimeout
from nomad_testkit.events import Progress
from nomad_testkit.images.agents.binary import AgentName, sha256_of
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from requests import Response

T = TypeVar("T")
logger = logging.getLogger(__name__)

OFFICIAL_SITE = "https://releases.hashicorp.com"
SITE_VARIABLE = "NOMAD_TESTKIT_RELEASES_URL"
"""Where the releases of Consul and Nomad are, such as a mirror (default: https://releases.hashicorp.com)."""

# A machine without a way to the site must not wait long: the build is next.
_CONNECT_SECONDS = 3.05
_READ_SECONDS = 30.0
_SUMS_SECONDS = 20.0
_ZIP_SECONDS = 900.0
_RETRY_SECONDS = 1.0
_PROGRESS_BYTES = 8 * 1024 * 1024
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


class ReleaseUnavailable(AgentSourceError):
    """The site cannot be reached or does not have this version, so another source may be tried."""


def site() -> str:
    """Return the release site's base URL: a mirror from $NOMAD_TESTKIT_RELEASES_URL, or else the official one."""
    return (os.environ.get(SITE_VARIABLE) or OFFICIAL_SITE).rstrip("/")


def published_sha256(name: AgentName, version: str, architecture: str, *, base_url: str | None = None) -> str:
    """Return what SHA256SUMS says about the release zip.

    The layout is the release site's: NAME/VERSION/NAME_VERSION_SHA256SUMS. Raises ReleaseUnavailable when the site
    cannot be reached (after about 3 s) or does not have it.
    """
    folder = f"{base_url or site()}/{name}/{version}"
    url = f"{folder}/{name}_{version}_SHA256SUMS"

    def read(response: Response) -> str:
        return response.text

    text = _fetch(url, read, Deadline.after(_SUMS_SECONDS), unreachable_is_final=True)
    wanted = _zip_name(name, version, architecture)
    for line in text.splitlines():
        sha256, _, file_name = line.partition(" ")
        if file_name.strip() == wanted and re.fullmatch(r"[0-9a-f]{64}", sha256):
            return sha256
    raise ReleaseUnavailable(f"{url} lists no {wanted}")


def download(
    name: AgentName,
    version: str,
    architecture: str,
    sha256: str,
    folder: Path,
    progress: Progress,
    *,
    base_url: str | None = None,
) -> Path:
    """Put the release's binary into `folder` and return its path.

    Raises AgentSourceError when the zip's checksum is not `sha256` (both are shown) or it holds no such binary, and
    ReleaseUnavailable when it cannot be downloaded.
    """
    archive = folder / _zip_name(name, version, architecture)
    url = f"{base_url or site()}/{name}/{version}/{archive.name}"

    def save(response: Response) -> Path:
        total = int(response.headers.get("Content-Length", 0))
        done, told = 0, 0
        with archive.open("wb") as file:
            for chunk in response.iter_content(1024 * 1024):
                file.write(chunk)
                done += len(chunk)
                if done - told >= _PROGRESS_BYTES:
                    told = done
                    progress(f"downloading {name} {version}: {_mib(done)} of {_mib(total) if total else 'unknown'}")
        return archive

    progress(f"downloading {name} {version} from {url}")
    _fetch(url, save, Deadline.after(_ZIP_SECONDS), unreachable_is_final=False)
    found = sha256_of(archive)
    if found != sha256:
        raise AgentSourceError(
            f"{url} has SHA-256 {found}, its SHA256SUMS says {sha256}; try again, and if it stays so, do not trust "
            f"that site: name a binary of your own, or another site in ${SITE_VARIABLE}"
        )
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(name) as source, (folder / name).open("wb") as target:
            while chunk := source.read(1024 * 1024):
                target.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise AgentSourceError(f"{url} holds no {name} binary: {error}") from error
    archive.unlink()
    (folder / name).chmod(0o755)
    return folder / name


def _zip_name(name: AgentName, version: str, architecture: str) -> str:
    return f"{name}_{version}_linux_{architecture}.zip"


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MiB"


def _fetch(url: str, read: Callable[[Response], T], deadline: Deadline, *, unreachable_is_final: bool) -> T:
    """GET `url` until it is read whole; a site that is busy or breaks off is asked again."""
    # Every pytest run on the machine loads the plugin, and few of them download anything.
    import requests

    def probe() -> Ok[T] | Pending:
        try:
            with requests.get(url, stream=True, timeout=(_CONNECT_SECONDS, _READ_SECONDS)) as response:
                if response.status_code in _BUSY:
                    return Pending(f"HTTP {response.status_code} {response.reason}")
                if response.status_code != 200:
                    raise ReleaseUnavailable(f"{url}: HTTP {response.status_code} {response.reason}")
                return Ok(read(response))
        except requests.exceptions.ReadTimeout:
            return Pending(f"no answer within {_READ_SECONDS:.0f} s")
        except requests.exceptions.ConnectionError as error:
            seen = f"cannot be reached ({_innermost(error)})"
            if unreachable_is_final:
                raise ReleaseUnavailable(f"{url}: {seen}") from error
            return Pending(seen)
        except requests.exceptions.ChunkedEncodingError as error:
            return Pending(f"broke off ({_innermost(error)})")
        except requests.exceptions.RequestException as error:
            raise ReleaseUnavailable(f"{url}: {error}") from error

    def note(seen: str) -> None:
        logger.info("%s: %s; asking again", url, seen)

    try:
        return wait_until(url, probe, deadline=deadline, interval=_RETRY_SECONDS, on_pending=note)
    except WaitTimeout as error:
        raise ReleaseUnavailable(str(error)) from error


def _innermost(error: BaseException) -> str:
    """Return the words of the error at the root, without the library's wrapping around them."""
    root: BaseException = error
    while (inner := root.__cause__ or root.__context__) is not None:
        root = inner
    return str(root) or type(root).__name__
