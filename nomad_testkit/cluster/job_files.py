"""The text of a job: where it is found, in which form it is written, and what Nomad's own command line adds to it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.errors import UsageError, did_you_mean

Json = dict[str, Any]

_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\xef\xbb\xbf": "UTF-8"}
_SERVER_FIELDS = (
    *("CreateIndex", "Dispatched", "JobModifyIndex", "ModifyIndex", "NomadTokenID", "ParentID", "Payload", "Stable"),
    *("Status", "StatusDescription", "Stop", "SubmitTime", "Version"),
)
"""What `nomad job inspect` prints of a job's past, and what is no part of a new one."""


@dataclass(frozen=True)
class JobSource:
    """The text of a job, and where it came from."""

    label: str
    text: str
    folder: Path
    """Where `file("...")` and its kin look."""

    def json(self) -> Json | None:
        """Read a job in JSON, wrapped in "Job" or bare; None where it is HCL. Raises UsageError.

        `nomad job inspect` and `nomad job run -output` print it wrapped.
        """
        if not self.text.lstrip().startswith("{"):
            return None
        try:
            found = json.loads(self.text)
        except ValueError as error:
            raise UsageError(f"{self.label}: expected a job in JSON, found {error}") from error
        job = found.get("Job", found)
        if not isinstance(job, dict):
            raise UsageError(f'{self.label}: expected an object at "Job", found {job!r}')
        if "Job" not in found and not {"ID", "Name", "TaskGroups"} & found.keys():
            if "job" in found:
                return None  # HCL in its JSON syntax, which Nomad's parser reads
            keys = ", ".join(map(repr, found)) or "none"
            raise UsageError(
                f'{self.label}: expected a job with "ID" and "TaskGroups", or such a one in "Job"; found {keys}'
            )
        return canonical(self.label, job)


def canonical(label: str, job: Mapping[str, Any]) -> Json:
    """Fill in what Nomad takes for what a job in JSON leaves out or has as null. Raises UsageError."""
    found = {key: value for key, value in job.items() if key not in _SERVER_FIELDS}
    name = found.get("ID") or found.get("Name")
    if not isinstance(name, str):
        raise UsageError(f'{label}: expected a string at "ID", found {name!r}')
    groups = found.get("TaskGroups") or []
    if not isinstance(groups, list) or not all(isinstance(one, dict) and one.get("Name") for one in groups):
        raise UsageError(f'{label}: expected a list of named groups at "TaskGroups", found {groups!r:.200}')
    defaults = {"ID": name, "Name": name, "Type": "service", "Datacenters": ["*"]}
    found |= {key: found.get(key) or value for key, value in defaults.items()}
    found["TaskGroups"] = [_canonical_group(group) for group in groups]
    return found


def _canonical_group(group: Mapping[str, Any]) -> Json:
    least = (group.get("Scaling") or {}).get("Min")
    count = group.get("Count")
    return {
        **group,
        "Count": count if count is not None else least if least is not None else 1,
        "Tasks": group.get("Tasks") or [],
    }


def read_source(source: str | Path) -> JobSource:
    """Find a job's text and say where it came from. Raises UsageError that lists where it was looked for.

    >>> read_source('job "x" {}').label
    'the given HCL'
    """
    if isinstance(source, str) and ("{" in source or "\n" in source):
        return JobSource("the given HCL", source, Path())
    from nomad_testkit.modules.bundle import fixtures_dir

    looked = [Path(source)]
    if not looked[0].is_absolute():
        looked.append(fixtures_dir() / "jobs" / source)
    for place in looked:
        if place.is_file():
            return JobSource(str(place), read_text(place), place.parent)
    places = " or ".join(str(place.absolute()) for place in looked)
    meant = did_you_mean(looked[0].name, (file for place in looked for file in _files(place.parent)))
    if not looked[0].parent.is_dir():
        folders = _files(looked[0].parent.parent, folders=True)
        meant = did_you_mean(looked[0].parent.name, folders) or meant
    kind = ", which is a folder" if looked[0].is_dir() else ""
    raise UsageError(f"no job file {source}{kind}: expected a file at {places}, or the HCL text itself{meant}")


def _files(folder: Path, *, folders: bool = False) -> list[str]:
    try:
        return [one.name for one in folder.iterdir() if one.is_dir() == folders]
    except OSError:
        return []


def read_text(path: Path) -> str:
    """Read a file in UTF-8. Raises UsageError that names another encoding or a byte order mark."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    remedy = f"expected UTF-8 without a byte order mark; `iconv -f {{}} -t UTF-8 {path}` converts it"
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            if encoding == "UTF-8":
                remedy = f"expected none; `sed -i '1s/^\\xEF\\xBB\\xBF//' {path}` removes it"
            raise UsageError(f"{path} begins with the byte order mark of {encoding}: {remedy.format(encoding)}")
    if b"\0" in data:
        raise UsageError(f"{path} has zero bytes, as UTF-16 has: {remedy.format('UTF-16LE')}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UsageError(f"{path} is not UTF-8: found {found}; {remedy.format('ISO-8859-1')}") from error


# -- file() and its kin, which Nomad's servers refuse


_CALL = re.compile(r"\b(?:abspath|basename|dirname|file|filebase64|fileexists|fileset|pathexpand)\s*\(")
_STRING = r'"(?:[^"\\$%]|\\.)*"'
_ARGUMENTS = re.compile(rf"(\w+)\s*\(\s*({_STRING})\s*(?:,\s*({_STRING})\s*)?,?\s*\)", re.DOTALL)


def with_files(source: JobSource) -> str:
    """Put in the place of `file("...")` and its kin what they give, since a server's parser knows no files.

    They look beside the job file, and have to be called with strings that are written out; others are left, and
    `explain_files` tells of them. Raises UsageError for a file that cannot be read.
    """
    if not _CALL.search(source.text):
        return source.text
    import hcl2
    from lark.exceptions import LarkError

    try:
        tree = hcl2.parses_to_tree(source.text)
    except LarkError:
        return source.text  # what is wrong with it is Nomad's to tell
    spans = sorted(
        (one.meta.start_pos, one.meta.end_pos) for one in tree.iter_subtrees() if one.data == "function_call"
    )
    text = source.text
    for start, end in reversed(spans):
        call = _ARGUMENTS.fullmatch(source.text[start:end])
        if call and (function := _FUNCTIONS.get(call[1])):
            arguments = [json.loads(one) for one in call.groups()[1:] if one is not None]
            text = text[:start] + literal(_called(source, call[0], function, arguments)) + text[end:]
    return text


def _called(source: JobSource, call: str, function: Callable[..., Any], arguments: list[str]) -> Any:
    try:
        return function(source.folder, *arguments)
    except OSError as error:
        path = Path(error.filename or source.folder)
        meant = did_you_mean(path.name, _files(path.parent))
        raise UsageError(f"{source.label}: {call}: {path.absolute()}: {error.strerror}{meant}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source.label}: {call}: expected a file in UTF-8, or filebase64()") from error
    except TypeError as error:
        raise UsageError(f"{source.label}: {call}: {len(arguments)} arguments are not what it takes") from error


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abspath": lambda _folder, path: str(Path(path).absolute()),
    "basename": lambda _folder, path: Path(path).name,
    "dirname": lambda _folder, path: str(Path(path).parent),
    "file": lambda folder, path: (folder / Path(path).expanduser()).read_bytes().decode(),
    "filebase64": lambda folder, path: base64.b64encode((folder / Path(path).expanduser()).read_bytes()).decode(),
    "fileexists": lambda folder, path: (folder / Path(path).expanduser()).is_file(),
    "fileset": lambda folder, path, glob: sorted(
        str(one.relative_to(folder / path)) for one in (folder / path).glob(glob) if one.is_file()
    ),
    "pathexpand": lambda _folder, path: str(Path(path).expanduser()),
}


def explain_files(message: str) -> str:
    """Name the remedy in an error of Nomad's about a function that needs files."""
    if "filesystem function" not in message:
        return message
    return (
        f'{message}\nA server cannot read files. file("...") and its kin are filled in beforehand where their argument '
        "is a string that is written out, outside of a heredoc; anything else has to be handed over as a variable"
    )


# -- variables


class Text(str):
    """A variable's value as text, as `nomad job run -var` takes it: the type that the job declares decides."""

    __slots__ = ()


_ENVIRONMENT = "NOMAD_VAR_"
_DECLARED = re.compile(r'^\s*variable\s+"?([\w-]+)"?', re.MULTILINE)


def variables_of(
    source: JobSource, variables: Mapping[str, Any], var_files: Iterable[str | Path], environ: Mapping[str, str]
) -> str:
    """Write the text of one variables file from all that sets a variable, as Nomad's command line would see it.

    `variables` win over files, of which the last wins, and these over NOMAD_VAR_name in the environment, which is
    passed over where the job declares no such variable. Raises UsageError for any other that it does not declare.
    """
    from_environment = {
        name.removeprefix(_ENVIRONMENT): Text(value) for name, value in environ.items() if name.startswith(_ENVIRONMENT)
    }
    files = [Path(one) for one in var_files]
    if not (variables or files or from_environment):
        return ""
    declared = _declared(source.text)
    found = {name: _text(name, value, declared) for name, value in from_environment.items() if name in declared}
    for file in files:
        assigned = _assignments(file)
        _refuse_unknown(f"{file} for {source.label}", assigned, declared)
        found |= assigned
    _refuse_unknown(source.label, variables, declared)
    found |= {name: _text(name, value, declared) for name, value in variables.items()}
    return "".join(f"{name} = {text}\n" for name, text in found.items())


def _refuse_unknown(label: str, names: Iterable[str], declared: Mapping[str, bool]) -> None:
    # Nomad's parser passes over a variable that the job does not declare.
    unknown = sorted(set(names) - set(declared))
    if unknown:
        known = ", ".join(declared) or "no variables"
        meant = did_you_mean(unknown[0], declared)
        raise UsageError(f"{label}: the job declares {known}, and so cannot take {', '.join(unknown)}{meant}")


def _declared(text: str) -> dict[str, bool]:
    """List a job's variables, and whether the text for each is the value itself, and no expression of HCL's."""
    import hcl2
    from lark.exceptions import LarkError

    try:
        found: Json = hcl2.loads(text if text.endswith("\n") else f"{text}\n")
    except LarkError:
        return dict.fromkeys(_DECLARED.findall(text), True)  # what is wrong with it is Nomad's to tell
    blocks = {_bare(name): body for one in found.get("variable", ()) for name, body in one.items() if name[:2] != "__"}
    declared = {name: _is_text(body.get("type"), body.get("default")) for name, body in blocks.items()}
    for block in found.get("variables", ()):
        declared |= {_bare(name): _is_text(None, value) for name, value in block.items() if name[:2] != "__"}
    return declared


def _is_text(type_: object, default: object) -> bool:
    """Tell as Nomad does (jobspec2/types.variables.go): what is declared, else the default's type, else a string."""
    if type_ is not None:
        return _bare(str(type_)) in ("string", "number")
    return not isinstance(default, bool | list | dict)


def _bare(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _text(name: str, value: Any, declared: Mapping[str, bool]) -> str:
    if not isinstance(value, Text) or declared[name]:
        return literal(str(value) if isinstance(value, Text) else value, name)
    import hcl2
    from lark.exceptions import LarkError

    try:
        alone = set(hcl2.loads(f"value = {value}\n")) == {"value"}
    except LarkError:
        alone = False
    if not alone:
        raise UsageError(
            f'job variable {name}: expected an expression of HCL\'s, such as true or ["a", "b"], found {str(value)!r}'
        )
    return str(value)


def _assignments(file: Path) -> dict[str, str]:
    """Read a variables file, HCL or JSON: the text of each value by its variable's name."""
    text = read_text(file)
    if text.lstrip().startswith("{"):
        try:
            return {name: literal(value, name) for name, value in json.loads(text).items()}
        except ValueError as error:
            raise UsageError(f"{file}: expected variables in JSON, found {error}") from error
    import hcl2
    from lark.exceptions import LarkError

    text = text if text.endswith("\n") else f"{text}\n"
    try:
        tree = hcl2.parses_to_tree(text)
    except LarkError as error:
        raise UsageError(f"{file}: expected lines such as count = 3, found {str(error).splitlines()[0]}") from error
    body = tree.children[0]
    found = {}
    for one in getattr(body, "children", ()):
        data = getattr(one, "data", None)
        if data == "block":
            raise UsageError(
                f"{file}: expected lines such as count = 3, found a block; a job declares its variables itself"
            )
        if data == "attribute":
            name, _, value = text[one.meta.start_pos : one.meta.end_pos].partition("=")
            found[name.strip()] = value.strip()
    return found


def variables_text(variables: Mapping[str, Any]) -> str:
    """Write the text of an HCL2 variables file. Raises UsageError for a value that HCL has no literal for.

    >>> variables_text({"message": "${x}", "zones": ["a"]})
    'message = "$${x}"\\nzones = ["a"]\\n'
    """
    return "".join(f"{key} = {literal(value, key)}\n" for key, value in variables.items())


_ESCAPES = {"\\b": "\\u0008", "\\f": "\\u000c", "${": "$${", "%{": "%%{"}


def literal(value: Any, name: str = "") -> str:
    """Write a value as HCL does. Raises UsageError, with the variable's `name`, for what HCL has no literal for."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        kind = type(value).__name__
        raise UsageError(
            f"job variable {name} is a {kind}; HCL takes strings, numbers, bools, lists and dicts"
        ) from error
    # JSON is HCL but for two escapes, and for these two, which begin a template.
    return re.sub(r"\\\\|\\b|\\f|\$\{|%\{", lambda found: _ESCAPES.get(found[0], found[0]), text)
