"""Parsers of settings: each takes a text and raises Wrong with the expected format."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Wrong(ValueError):
    """A text that cannot be parsed; the message states the expected format."""


Parse = Callable[[str], Any]


def choice(*names: str) -> Parse:
    """Return a parser that accepts one of `names`."""

    def parse(text: str) -> str:
        if text not in names:
            raise Wrong("one of " + ", ".join(names))
        return text

    return parse


def matching(pattern: str, expected: str) -> Parse:
    """Return a parser that accepts what a pattern matches; `expected` describes it."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise Wrong(expected)
        return text

    return parse


def switch(text: str) -> bool:
    """Read true or false."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise Wrong("true or false")


def seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise Wrong("a number of seconds above 0, such as 300")
    return value


def number_from(least: int, *, digits: int = 4) -> Parse:
    """Read a whole number that is not below `least`."""

    def parse(text: str) -> int:
        if not re.fullmatch(rf"[0-9]{{1,{digits}}}", text) or int(text) < least:
            raise Wrong(f"a whole number, {least} or more")
        return int(text)

    return parse


def assignment(text: str) -> tuple[str, str]:
    """Read KEY=VALUE."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
        raise Wrong("KEY=VALUE, such as num_clients=3")
    return name, value


def condition_key(text: str) -> tuple[str, str]:
    """Read KEY=VALUE, where the key is one of a policy's conditions."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (equals and value and re.fullmatch(r"[A-Za-z0-9-]+:[^\s=]+", name)):
        raise Wrong("KEY=VALUE with a policy's condition key, such as aws:SourceIp=203.0.113.7")
    return name, value


def users(text: str) -> tuple[int, ...]:
    """Read names or ids of users of this machine, with commas between them."""
    import pwd

    found = []
    for one in (part.strip() for part in text.split(",")):
        try:
            found.append(int(one) if re.fullmatch(r"[0-9]{1,9}", one) else pwd.getpwnam(one).pw_uid)
        except KeyError:
            raise Wrong(
                f"names or ids of users of this machine, such as alice,1001; there is no user {one!r}"
            ) from None
    return tuple(found)


def folder(text: str) -> Path:
    """Read the path of a folder that exists or can be created."""
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise Wrong("a folder, or a path where one can be made")
    return path


def page(text: str) -> Path:
    """Read the path of a writable file."""
    path, expected = Path(text).expanduser(), "a file that can be written, such as report.html"
    try:
        if path.is_dir():
            raise Wrong(f"{expected}; this is a folder")
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise Wrong(f"{expected}; this one cannot be")
        folder = next(one for one in path.absolute().parents if one.exists() or one.is_symlink())
    except OSError as error:
        raise Wrong(f"{expected}; {error.strerror}") from error
    if not folder.is_dir():
        raise Wrong(f"{expected}; {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Wrong(f"{expected}; nothing can be written into {folder}")
    return path


def folder_or_name(text: str) -> str:
    """Read the path of a folder, or a name; the caller decides which it is."""
    Path(text).exists()  # raises OSError for a path that is too long, or behind a folder that lets nobody in
    return text


def name(text: str) -> str:
    """Read a name."""
    return text.strip()


def blocks(text: str) -> tuple[str, ...]:
    """Read comma-separated IPv4 blocks."""
    try:
        return tuple(str(ipaddress.IPv4Network(part.strip())) for part in text.split(","))
    except ValueError as error:
        raise Wrong(f"IPv4 blocks with commas between them, such as 203.0.113.7/32 ({error})") from error


def dollars(text: str) -> float:
    """Read an amount in US dollars."""
    try:
        return seconds(text)
    except Wrong:
        raise Wrong("a sum in US dollars above 0, such as 2.50") from None


def program(text: str) -> Path:
    """Read the path of an existing file."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise Wrong("the path of an existing executable")
    return path


REGION = matching(r"[a-z]{2}(-[a-z]+)+-[0-9]", "an AWS region such as us-east-1")
AMI = matching(r"ami-([0-9a-f]{8}|[0-9a-f]{17})", "an AMI id such as ami-0123456789abcdef0")
ACCOUNT = matching(r"[0-9]{12}", "the id of an AWS account, such as 123456789012")
VPC = matching(r"vpc-([0-9a-f]{8}|[0-9a-f]{17})", "the id of a VPC such as vpc-0123456789abcdef0")
URL = matching(r"https?://[^/\s?#]+/?", "the URL of an AWS API such as http://127.31.255.254")
VERSION = matching(r"[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?", "a version such as 1.6.1")
