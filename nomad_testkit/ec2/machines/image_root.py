"""Files of a host's or image's root, read and written from this machine without leaving that root.

An image is not trusted: any folder or file in it can be a link to a path of this machine. Every path is resolved as the
host would resolve it (openat2(2) with RESOLVE_IN_ROOT), so ``/etc -> /root`` is the image's own ``/root``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nomad_testkit.ec2.machines.syscalls import open_in_root

_FILE_MODE, _FOLDER_MODE = 0o644, 0o755


class ImageRoot:
    """A root folder, and the user and group id that its root user has on this machine.

    >>> root = ImageRoot(Path("/run/cloud/i-1/root"), owner=805306368)  # doctest: +SKIP
    >>> root.write("etc/hostname", "ip-172-31-0-4\\n")  # doctest: +SKIP
    """

    def __init__(self, folder: Path, *, owner: int = 0) -> None:
        self._folder, self._owner = folder, owner

    def is_link(self, name: str) -> bool:
        """Whether this path is a symbolic link, wherever it leads."""
        return self._kind(name) == stat.S_IFLNK

    def is_file(self, name: str) -> bool:
        """Whether this path leads to a regular file."""
        return self.start(name, 0) is not None

    def link(self, name: str) -> str | None:
        """Return where a symbolic link leads; None for what is no link."""
        if not self.is_link(name):
            return None
        path = Path(name)
        with self._opened() as root:
            folder = open_in_root(root, str(path.parent), os.O_PATH | os.O_DIRECTORY)
            try:
                return os.readlink(path.name, dir_fd=folder)
            finally:
                os.close(folder)

    def start(self, name: str, count: int) -> bytes | None:
        """Read the first bytes of a file; None if it does not exist or is no regular file."""
        with self._opened() as root:
            try:
                file = open_in_root(root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:
                return None
        with os.fdopen(file, "rb") as opened:
            return opened.read(count) if stat.S_ISREG(os.fstat(opened.fileno()).st_mode) else None

    def read(self, name: str, *, follow: bool = True) -> str | None:
        """Read a file; None if it does not exist or is no regular file, such as a FIFO or, without `follow`, a link."""
        if not follow and self.is_link(name):
            return None
        with self._opened() as root:
            try:
                # Without O_NONBLOCK a FIFO would wait for a writer.
                file = open_in_root(root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:
                return None
        with os.fdopen(file, encoding="utf-8", errors="surrogateescape") as opened:
            return opened.read() if stat.S_ISREG(os.fstat(opened.fileno()).st_mode) else None

    def write(self, name: str, text: str) -> None:
        """Write a file, and the folders above it; what stands there and is no file, such as a link, makes room.

        Raises OSError where a folder of it is a file.
        """
        path = Path(name)
        with self._folder_of(path) as folder:
            kind = _kind_in(folder, path.name)
            if kind not in (None, stat.S_IFREG):
                os.unlink(path.name, dir_fd=folder)
                kind = None
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(path.name, flags, _FILE_MODE, dir_fd=folder)
            with os.fdopen(file, "w", encoding="utf-8", errors="surrogateescape") as opened:
                opened.write(text)
                if kind is None:
                    os.fchown(opened.fileno(), self._owner, self._owner)

    def remove(self, name: str) -> None:
        """Remove a file or link, if there is one."""
        path = Path(name)
        with self._opened() as root, contextlib.suppress(FileNotFoundError, NotADirectoryError):
            folder = open_in_root(root, str(path.parent), os.O_PATH | os.O_DIRECTORY)
            try:
                os.unlink(path.name, dir_fd=folder)
            finally:
                os.close(folder)

    def _kind(self, name: str) -> int | None:
        path = Path(name)
        with self._opened() as root:
            try:
                folder = open_in_root(root, str(path.parent), os.O_PATH | os.O_DIRECTORY)
            except OSError:
                return None
            try:
                return _kind_in(folder, path.name)
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        root = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield root
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _folder_of(self, path: Path) -> Iterator[int]:
        """Open the folder that a path is in, made where it is not there."""
        with self._opened() as root:
            folder = self._made(root, path.parent)
            try:
                yield folder
            finally:
                os.close(folder)

    def _made(self, root: int, path: Path) -> int:
        flags = os.O_PATH | os.O_DIRECTORY
        with contextlib.suppress(FileNotFoundError):
            return open_in_root(root, str(path), flags)
        above = self._made(root, path.parent)
        try:
            if _kind_in(above, path.name) is not None:
                os.unlink(path.name, dir_fd=above)  # a link that leads nowhere in this root
            os.mkdir(path.name, _FOLDER_MODE, dir_fd=above)
            os.chown(path.name, self._owner, self._owner, dir_fd=above, follow_symlinks=False)
        finally:
            os.close(above)
        return open_in_root(root, str(path), flags)


def _kind_in(folder: int, name: str) -> int | None:
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None
