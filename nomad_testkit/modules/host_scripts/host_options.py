"""Options of the scripts: what a value must be, and one sentence for the user where it is not."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ENDPOINT = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?/?")
OUTPUT = re.compile(
    r"(inherit|null|tty|journal|kmsg|syslog|(journal|kmsg|syslog)\+console|socket|"
    r"(file|append|truncate):/\S+|fd(:[A-Za-z0-9_.-]+)?)"
)


def new_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Make a parser that takes no shortened option: a typing error must not become another option."""
    return argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Take a whole number from `least` to `most`."""
    right = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,9}", text) or int(text) < least or (most is not None and int(text) > most):
            raise refused(text, right)
        return int(text)

    return parse


def matching(pattern: str, right: str) -> Callable[[str], str]:
    """Take a text that the pattern matches as a whole."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise refused(text, right)
        return text

    return parse


def duration(text: str) -> str:
    """Take a duration as Go writes it, such as 200ms or 1m30s."""
    if not DURATION.fullmatch(text):
        raise refused(text, "a duration with its unit, such as 200ms, 10s or 1m30s")
    return text


def boolean(text: str) -> bool:
    """Take true or false."""
    if text not in ("true", "false"):
        raise refused(text, "true or false")
    return text == "true"


def gossip_key(text: str) -> str:
    """Take a key for Serf's encryption, as `consul keygen` prints it; never shows what it refuses."""
    import base64

    try:
        size = len(base64.b64decode(text, validate=True))
    except ValueError:
        size = -1
    if size not in (16, 24, 32):
        found = "what was given is not base64" if size < 0 else f"what was given has {size} bytes"
        raise argparse.ArgumentTypeError(
            f"{found}; expected base64 of 16, 24 or 32 bytes, as `consul keygen` prints it"
        )
    return text


def token(text: str) -> str:
    """Take the secret of an ACL token, a UUID; never shows what it refuses."""
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        found = f"what was given has {len(text)} characters" if len(text) != 36 else "what was given is not one"
        raise argparse.ArgumentTypeError(f"{found}; expected a UUID, as `uuidgen` prints it")
    return text.lower()


def agent_address(text: str) -> tuple[str, int]:
    """Take HOST:PORT of an agent's API."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9.-]+", host) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise refused(text, "a host and a port, such as 127.0.0.1:8500")
    if not 0 < int(port) < 65536:
        raise refused(text, "a port from 1 to 65535")
    return host, int(port)


def dns_server(text: str) -> str:
    """Take the IP address of a DNS server, with or without a port."""
    import ipaddress

    address, port = text, "53"
    match = re.fullmatch(r"\[([^\]]+)\]:([0-9]+)|([^:]+):([0-9]+)", text)
    if match:
        address, port = match[1] or match[3], match[2] or match[4]
    try:
        ipaddress.ip_address(address)
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise refused(text, "an IP address, or one with a port such as 10.0.0.2:53") from None
    return text


def ip_address(text: str) -> str:
    """Take an IP address."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise refused(text, "an IP address such as 127.0.0.1") from None


def endpoint(text: str) -> str:
    """Take the URL of an AWS API; empty means the region's own."""
    if text and not ENDPOINT.fullmatch(text):
        raise refused(text, "http:// or https:// with a host and perhaps a port, and no path")
    return text.rstrip("/")


def environment(text: str) -> tuple[str, str]:
    """Take KEY=VALUE; never shows a value, which may be secret."""
    key, equals, value = text.partition("=")
    if not equals or not VARIABLE.fullmatch(key):
        found = repr(key) if equals else "there is no = in what was given"
        raise argparse.ArgumentTypeError(f"{found}; expected KEY=VALUE, with a KEY of letters, digits and _")
    if "\0" in value:
        raise argparse.ArgumentTypeError(f"the value of {key} has a NUL in it, which no environment can hold")
    return key, value


def systemd_output(text: str) -> str:
    """Take a value of systemd's StandardOutput= (systemd.exec(5))."""
    if not OUTPUT.fullmatch(text):
        raise refused(text, "one of systemd's, such as journal, null or append:/var/log/agent.log")
    return text


def tag_text(text: str) -> str:
    """Take a key or value of an EC2 tag."""
    if not 0 < len(text) <= 256 or not text.isprintable():
        raise refused(text, "1 to 256 printable characters")
    return text


def absolute_path(text: str) -> Path:
    """Take an absolute path that a unit file can hold."""
    if not text.startswith("/") or not text.isprintable():
        raise refused(text, "an absolute path")
    return Path(text)


def user_name(text: str) -> str:
    """Take the name of a user (useradd(8))."""
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise refused(text, "a user's name: small letters, digits, _ and -, at most 32")
    return text


def refused(text: str, right: str) -> argparse.ArgumentTypeError:
    """Word the refusal of a value; argparse adds the option's name."""
    return argparse.ArgumentTypeError(f"{text!r} is refused; expected {right}")


def option_of(name: str) -> str:
    """Give the option behind an attribute of the parsed options."""
    return "--" + name.replace("_", "-")


def refuse_given(parser: argparse.ArgumentParser, options: Any, names: tuple[str, ...], why: str) -> None:
    """End with usage where one of the options was given, since it would do nothing."""
    given = [option_of(name) for name in names if getattr(options, name) is not parser.get_default(name)]
    if given:
        parser.error(f"{', '.join(given)}: {why}")


def add_secret(add: Callable[..., Any], option: str, parse: Callable[[str], str], metavar: str, what: str) -> None:
    """Add an option for a secret, and one for a file that holds it: user data need not contain the secret then."""
    add(option, type=parse, metavar=metavar, help=what)
    add(f"{option}-file", type=absolute_path, metavar="FILE", help=f"a file that holds the value of {option}")


def take_secrets(parser: argparse.ArgumentParser, options: Any, parsers: Mapping[str, Callable[[str], str]]) -> None:
    """Put what the files hold in place of the options by value; ends with usage where a file holds nothing usable."""
    for name, parse in parsers.items():
        path: Path | None = getattr(options, f"{name}_file")
        if path is None:
            continue
        option = option_of(name)
        if getattr(options, name) is not None:
            parser.error(f"{option} and {option}-file exclude each other: the value, or a file that holds it")
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            parser.error(f"argument {option}-file: {str(path)!r} is refused: {reason}")
        try:
            setattr(options, name, parse(text))
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument {option}-file: {str(path)!r}: {error}")


def with_files(names: Sequence[str]) -> tuple[str, ...]:
    """Give the attributes of secrets, each followed by that of its file."""
    return tuple(part for name in names for part in (name, f"{name}_file"))


def add_unit_options(parser: argparse.ArgumentParser, agent: str, config_option: str) -> None:
    """Add what run-consul and run-nomad have in common."""
    add = parser.add_argument
    add("--config-dir", type=absolute_path, metavar="DIR", help="configuration (default: ../config from here)")
    add("--data-dir", type=absolute_path, metavar="DIR", help="the agent's state (default: ../data from here)")
    add("--bin-dir", type=absolute_path, metavar="DIR", help=f"where {agent} is (default: beside this script)")
    add("--systemd-stdout", type=systemd_output, metavar="VALUE", help="the unit's StandardOutput=")
    add("--systemd-stderr", type=systemd_output, metavar="VALUE", help="the unit's StandardError=")
    add("--user", type=user_name, help="who owns the files and runs the agent (default: the owner of DIR)")
    add(
        "--environment",
        type=environment,
        action="append",
        metavar="KEY=VALUE",
        help="a variable of the agent's environment; repeatable",
    )
    add(config_option, action="store_true", help="write no configuration: use what is there already")
