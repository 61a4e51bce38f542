"""What a folder of ``*.tf`` declares, read without running anything: its variables, its outputs, what it needs beside.

HCL is read by python-hcl2. A file that it cannot read is looked through for names alone: whether it is valid is for
Terraform itself to say.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomad_testkit.errors import ExampleError

logger = logging.getLogger(__name__)

SUFFIXES = (".tf", ".tf.json")
_BLOCK = re.compile(r"""^(variable|output)\s+"?([\w-]+)"?\s*\{""", re.MULTILINE)
_LOCAL_SOURCE = re.compile(r"""\bsource"?\s*[=:]\s*"(\.\.?/[^"?]*)(?:\?[^"]*)?\"""")
_DISCOVERY = re.compile(
    r"""^\s*"?(\w*)cluster_tag_(key|value)"?\s*[=:]\s*("[^"$%\n]+"|var\.\w+|"\$\{var\.\w+\}")""", re.MULTILINE
)
_ABOVE = re.compile(r"path\.(?:module|root)\}/((?:\.\./?)+)")
_PRIMITIVE = ("string", "number", "bool")


@dataclass(frozen=True, slots=True)
class Declared:
    """One variable of a configuration."""

    name: str
    type: str = ""
    """As it is written, such as ``list(string)``; empty where it has none."""
    default: Any = None
    required: bool = False
    sensitive: bool = False

    @property
    def primitive(self) -> bool:
        """Whether a value is a string, a number or a boolean, which need no quotes on a command line."""
        return self.type in ("", *_PRIMITIVE)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A folder of ``*.tf``, as far as it declares something to its user.

    >>> Configuration.read(Path("my-cluster")).outputs  # doctest: +SKIP
    ('asg_name_servers', 'asg_name_clients', 'aws_region')
    """

    folder: Path
    variables: Mapping[str, Declared]
    outputs: tuple[str, ...]
    unread: Mapping[str, str] = field(default_factory=dict)
    """The files that are not HCL, as far as this can tell, with what is wrong."""

    @classmethod
    def read(cls, folder: Path) -> Configuration:
        """Read a folder. Raises ExampleError for a file that cannot be opened."""
        variables: dict[str, Declared] = {}
        outputs: list[str] = []
        unread: dict[str, str] = {}
        for file in files(folder):
            text = _text(file)
            try:
                found = dict(_json_blocks(text) if file.name.endswith(".json") else _blocks(text))
            except ValueError as error:
                unread[file.name] = str(error)
                found = _names(text)
                logger.info("%s is looked through for names alone: %s", file, error)
            # An override file says something of what is declared already.
            for name, body in found.get("variable", {}).items():
                variables[name] = _declared(name, body, variables.get(name))
            outputs += [name for name in found.get("output", {}) if name not in outputs]
        return cls(folder, variables, tuple(outputs), unread)

    def secrets(self, values: Mapping[str, Any]) -> list[str]:
        """List the texts that must not be told: values of sensitive variables, their defaults, and their lines."""
        found: list[str] = []
        for name, one in self.variables.items():
            if one.sensitive:
                for value in (values.get(name), one.default):
                    found += [text for text in _texts(value) if text]
        lines = [line.strip() for text in found for line in text.splitlines() if len(line.strip()) >= 8]
        return sorted({*found, *lines}, key=len, reverse=True)


def files(folder: Path) -> list[Path]:
    """List the files of a configuration, the overriding ones last, as Terraform reads them."""
    found = [path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith(".")]
    return sorted(
        (path for path in found if path.is_file()),
        key=lambda path: (bool(re.search(r"(^|_)override\.tf", path.name)), path.name),
    )


def discovery_arguments(folder: Path) -> list[tuple[str, str]]:
    """List the pairs of ``cluster_tag_key`` and ``cluster_tag_value`` that blocks of a configuration give modules.

    Each is a text in quotes or ``var.NAME``, as it stands there; other expressions are Terraform's to know. The names
    may have something before them, such as ``nomad_``.
    """
    found = []
    for file in files(folder):
        for block in re.split(r"^}", _text(file), flags=re.MULTILINE):
            given = {(one, which): value for one, which, value in _DISCOVERY.findall(block)}
            found += [
                (value, given[one, "value"])
                for (one, which), value in given.items()
                if which == "key" and (one, "value") in given
            ]
    return list(dict.fromkeys(found))


def root(folder: Path) -> Path:
    """Find the folder that has to be copied: the lowest with all that the configuration refers to by relative paths.

    These are the sources of its local modules, of theirs, and files at ``${path.module}/../...``. Raises ExampleError
    where that is the root of the file system or somebody's home.
    """
    folder = folder.resolve()
    top, seen, todo = folder, set[Path](), [folder]
    while todo:
        here = todo.pop()
        if here in seen or not here.is_dir():
            continue
        seen.add(here)
        for file in files(here):
            text = _text(file)
            modules = [(here / source).resolve() for source in _LOCAL_SOURCE.findall(text)]
            above = [(here / up).resolve() for up in _ABOVE.findall(text)]
            todo += modules
            for path in (*modules, *above):
                top = _common(top, path)
    if top in (Path(top.anchor), Path.home(), Path("/home"), Path("/tmp")):  # noqa: S108 - it is compared, not used
        raise ExampleError(
            f"{folder}: found modules or files up to {top}, which would have to be copied whole; expected a folder of "
            "their own for the configuration and its modules, such as a repository"
        )
    return top


def _common(one: Path, other: Path) -> Path:
    return next(path for path in (one, *one.parents) if path == other or path in other.parents)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExampleError(f"{file} cannot be read: {error}") from error


def _blocks(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # It brings a grammar that takes half a second to load.
    import hcl2
    from lark.exceptions import LarkError

    try:
        found: dict[str, Any] = hcl2.loads(text)
    except LarkError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    for kind in ("variable", "output"):
        blocks = found.get(kind, [])
        yield kind, {_unquoted(name): body for block in blocks for name, body in block.items() if name[:2] != "__"}


def _json_blocks(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = json.loads(text)
    for kind in ("variable", "output"):
        blocks = found.get(kind, {}) if isinstance(found, dict) else {}
        blocks = blocks if isinstance(blocks, list) else [blocks]
        yield kind, {name: _quoted(body) for block in blocks for name, body in block.items()}


def _quoted(body: Any) -> dict[str, Any]:
    """Write strings of JSON as they stand in HCL, except the type, which has no quotes there."""
    one = body[0] if isinstance(body, list) and body else body
    return {
        key: json.dumps(value) if isinstance(value, str) and key != "type" else value
        for key, value in (one if isinstance(one, dict) else {}).items()
    }


def _names(text: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"variable": {}, "output": {}}
    for kind, name in _BLOCK.findall(text):
        found[kind][name] = {}
    return found


def _declared(name: str, body: Mapping[str, Any], known: Declared | None) -> Declared:
    type_ = str(body.get("type", known.type if known else ""))
    type_ = type_[2:-1] if type_.startswith("${") and type_.endswith("}") else _unquoted(type_)
    return Declared(
        name,
        # Before 0.12, types were quoted, and there were but these: list and map stood for those of strings.
        type_,
        _value(body["default"]) if "default" in body else known.default if known else None,
        "default" not in body and (known is None or known.required),
        str(body.get("sensitive", known.sensitive if known else False)).lower() == "true",
    )


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return _unquoted(value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, dict):
        return {_unquoted(key): _value(item) for key, item in value.items() if not key.startswith("__")}
    return value


def _unquoted(text: str) -> str:
    if len(text) < 2 or not (text[0] == text[-1] == '"'):
        return text
    try:
        # HCL's escapes are JSON's, and `$${`.
        return str(json.loads(text)).replace("$${", "${")
    except ValueError:
        return text[1:-1]


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [] if value is None or isinstance(value, bool) else [str(value)]
