"""Everything slow, kept in the user's cache folder: keyed by what it was made from, made once, proven before use."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from nomad_testkit.errors import CacheError

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "NOMAD_TESTKIT_CACHE"
"""The folder for agents, images and tools, which are made once (default: ~/.cache/nomad-testkit)."""

_LOCK_SECONDS = 3600.0
# A program that filled the disk may report it in words of its own; this little left says it as well as ENOSPC does.
_FULL_BELOW_BYTES = 8 * 1024 * 1024


class Cache:
    """A folder of entries, each made once and used by every run after.

    An entry is a folder: ``content`` is what the maker made, ``manifest.json`` beside it says what must be there.

    >>> cache = Cache(Path("/tmp/example-cache"))
    >>> folder = cache.get("greeting", {"word": "hello"}, lambda content: (content / "word").write_text("hello"))
    >>> (folder / "word").read_text()
    'hello'
    """

    def __init__(self, root: Path | None = None) -> None:
        """Use `root`, or else the folder that $NOMAD_TESTKIT_CACHE names, or else the user's cache folder."""
        if root is None:
            named = os.environ.get(ENVIRONMENT_VARIABLE)
            root = Path(named) if named else user_cache_path("nomad-testkit")
        self.root = root.expanduser().absolute()

    def get(
        self,
        kind: str,
        key: Mapping[str, str],
        make: Callable[[Path], Any],
    ) -> Path:
        """Return the content folder of the entry for `key`, made by `make` if it is not there or is damaged.

        `make` gets an empty folder (mode 0755) to fill, on the same file system. Only when it returns does the entry
        appear, at once and whole; when it raises, nothing of it stays. Of two runs that want the same entry one makes
        it and the other waits.

        Raises CacheError when the folder cannot be written or the disk is full, and whatever `make` raises.
        """
        folder = self._folder(kind, key)
        with self._explained(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder.parent)
            if (content := self._intact(folder)) is not None:
                return content
        with self._locked(folder):
            # Another run may have made it while this one waited.
            with self._explained(folder):
                if (content := self._intact(folder)) is not None:
                    return content
            self._make(folder, key, make)
        return folder / "content"

    def find(self, kind: str, key: Mapping[str, str]) -> Path | None:
        """Return the content folder of the entry for `key` if it is there and undamaged, and make nothing."""
        folder = self._folder(kind, key)
        with self._explained(folder):
            return self._intact(folder)

    def _folder(self, kind: str, key: Mapping[str, str]) -> Path:
        canonical = json.dumps(dict(key), sort_keys=True).encode()
        readable = re.sub(r"[^A-Za-z0-9.+]+", "-", "-".join(key[name] for name in sorted(key)))[:60].strip("-.")
        return self.root / kind / f"{readable}-{hashlib.sha256(canonical).hexdigest()[:12]}"

    def _make(self, folder: Path, key: Mapping[str, str], make: Callable[[Path], Any]) -> None:
        with self._explained(folder):
            making = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        entry = making / "entry"
        content = entry / "content"
        try:
            with self._explained(folder):
                entry.mkdir()
                content.mkdir()
                # A restrictive umask must not end up as the mode of a host's root directory.
                content.chmod(0o755)
            try:
                make(content)
            except Exception as error:
                if _is_full(error) or shutil.disk_usage(self.root).free < _FULL_BELOW_BYTES:
                    raise self._full(folder) from error
                raise
            with self._explained(folder):
                manifest = {"key": dict(key), "files": _inventory(content)}
                (entry / "manifest.json").write_text(json.dumps(manifest))
                if folder.exists():
                    folder.rename(making / "damaged")
                entry.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _intact(self, folder: Path) -> Path | None:
        content, manifest = folder / "content", folder / "manifest.json"
        try:
            files = json.loads(manifest.read_text())["files"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            logger.warning("%s is damaged (its manifest cannot be read) and is made again", folder)
            return None
        damage = next(_damage(content, files), None)
        if damage is None:
            return content
        logger.warning("%s is damaged (%s) and is made again", folder, damage)
        return None

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        lock = FileLock(_lock_path(folder))
        with self._explained(folder):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.info("another run is making %s; waiting for it", folder)
                try:
                    lock.acquire(timeout=_LOCK_SECONDS)
                except Timeout:
                    raise CacheError(
                        f"another run has held {lock.lock_file} for {_LOCK_SECONDS:.0f} s; end that run, then try again"
                    ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _explained(self, folder: Path) -> Iterator[None]:
        """Turn an OSError of the cache's own work into a CacheError; a maker's errors are its own."""
        try:
            yield
        except OSError as error:
            if _is_full(error):
                raise self._full(folder) from error
            raise CacheError(
                f"the cache folder {self.root} cannot be used: {error}; make it readable and writable, or name another "
                f"folder in ${ENVIRONMENT_VARIABLE}"
            ) from error

    def _full(self, folder: Path) -> CacheError:
        free = shutil.disk_usage(_nearest_existing(folder)).free
        return CacheError(
            f"the disk is full: {folder.name} could not be made in the cache folder {self.root}, which has "
            f"{free} bytes free; free some space there, or name a folder on another disk in ${ENVIRONMENT_VARIABLE}"
        )


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _nearest_existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _lock_path(folder: Path) -> Path:
    # Beside the entry, since the entry itself is replaced as a whole.
    return folder.parent / f".{folder.name}.lock"


def _remove_leftovers(parent: Path) -> None:
    """Remove what runs that died while making an entry left behind: the kernel has released their locks."""
    for leftover in parent.glob(".*.tmp"):
        name = leftover.name.removeprefix(".").removesuffix(".tmp").rpartition(".")[0]
        lock = FileLock(_lock_path(parent / name))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)
        except Timeout:
            continue


def _inventory(content: Path) -> dict[str, list[str | int]]:
    """List what stands in `content`: type, and size of regular files (a device node or a link has none to compare)."""
    found: dict[str, list[str | int]] = {}
    for path, entry in _walk(content):
        status = entry.stat(follow_symlinks=False)
        kind = stat.filemode(status.st_mode)[0]
        found[path] = [kind, status.st_size] if kind == "-" else [kind]
    return found


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), path + "/")


def _damage(content: Path, files: Mapping[str, list[str | int]]) -> Iterator[str]:
    for name, facts in files.items():
        path = content / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            yield f"{name} is missing"
            continue
        kind = stat.filemode(status.st_mode)[0]
        if kind != facts[0]:
            yield f"{name} has type {kind}, made with {facts[0]}"
        elif kind == "-" and status.st_size != facts[1]:
            yield f"{name} has {status.st_size} bytes, made with {facts[1]}"
