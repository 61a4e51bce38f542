"""The pages of the reference, generated from the code: what nobody writes by hand cannot be out of date."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import architecture_picture

from nomad_testkit import checks as bundled_checks
from nomad_testkit import faults, operations, plugin
from nomad_testkit.checks import healing
from nomad_testkit.cli import check, group
from nomad_testkit.cluster.check import Check
from nomad_testkit.examples.variables import RESERVED, TYPES
from nomad_testkit.faults import linearizability
from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.settings import table

FOLDER = "reference"
OTHER_VARIABLES = (
    ("nomad_testkit.images.cache", "ENVIRONMENT_VARIABLE"),
    ("nomad_testkit.runs.run", "ENVIRONMENT_VARIABLE"),
    ("nomad_testkit.images.base_image", "MIRROR_VARIABLE"),
    ("nomad_testkit.images.agents.release", "SITE_VARIABLE"),
)
"""The environment's variables that are no settings, each by the module and the name that it is kept under."""
HELD: Mapping[str, Sequence[str]] = {
    "nomad_testkit": ("Example", "Cluster", "Host", "Job", "Settings"),
    "nomad_testkit.cluster.host": ("UnitState",),
    "nomad_testkit.ssh": ("CommandResult",),
    "nomad_testkit.targets": ("Target",),
    "nomad_testkit.cluster.clients": ("ConsulClient", "NomadClient"),
    "nomad_testkit.wait": ("Deadline", "wait_until", "Ok", "Pending", "Broken"),
    "nomad_testkit.cluster.timeline": ("HostTimeline",),
}
"""What a test holds in its hands, by where it is imported from."""
GIVEN = {
    *(f"nomad_testkit.{name}" for name in ("Example", "Cluster", "Host", "Job", "Settings", "targets.Target")),
    *(f"nomad_testkit.cluster.clients.{name}" for name in ("ConsulClient", "NomadClient")),
    "nomad_testkit.faults.Fault",
    "nomad_testkit.faults.Faults",
}
"""What fixtures or methods give, and no test makes by its class."""
EXAMPLES = sorted(path.parent.name for path in examples_dir().glob("nomad-*/README.md"))
_WRONG = {str: "\n", int: -1}
"""A value that a type with a rule refuses, so that it tells the rule."""


def pages() -> dict[str, str]:
    """Give every page by its file name."""
    return {
        "fixtures.md": _fixtures(),
        "settings.md": _settings(),
        "checks.md": _checks(),
        "faults.md": _faults(),
        "operations.md": _operations(),
        "linearizability.md": _linearizability(),
        "command-line.md": _command_line(),
        "markers.md": _markers(),
        "example-files.md": _example_files(),
        "objects.md": _objects(),
        "errors.md": _errors(),
        **{f"examples/{name}.md": _include(name) for name in EXAMPLES},
        "index.md": _index(),
        "architecture.svg": architecture_picture.svg(),
    }


def write(folder: Path) -> None:
    """Write every page, and remove those that are no more; one that has not changed is left alone."""
    made = {folder / name: text for name, text in pages().items()}
    for path in (*folder.rglob("*.md"), *folder.rglob("*.svg")):
        if path not in made:
            path.unlink()
    for path, text in made.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def fixtures() -> dict[str, Any]:
    """Give the plugin's fixtures by name, in the order of the code."""
    module = importlib.import_module("nomad_testkit.plugin.fixtures")
    kind = type(module.nomad_cluster)
    return {name: one for name, one in vars(module).items() if isinstance(one, kind)}


def checks() -> list[type[Check[Any]]]:
    """List the checks that `nomad_testkit.checks` exports."""
    exported = [getattr(bundled_checks, name) for name in bundled_checks.__all__]
    return [one for one in exported if inspect.isclass(one) and issubclass(one, Check) and one is not Check]


def other_variables() -> dict[str, str]:
    """Tell the environment's variables that are no settings, and what each is."""
    found = {}
    for module_name, constant in OTHER_VARIABLES:
        module = importlib.import_module(module_name)
        found[getattr(module, constant)] = _constant_docstring(module, constant)
    return found


def _fixtures() -> str:
    rows = []
    for name, fixture in fixtures().items():
        function: Callable[..., Any] = fixture.__wrapped__
        scope = str(fixture._fixture_function_marker.scope)
        gives = str(inspect.signature(function).return_annotation).removeprefix("Iterator[").removesuffix("]")
        rows.append([f"`{name}`", scope, f"`{_cell(gives)}`", _one_line(function)])
    return _page(
        "Fixtures",
        "Every fixture can be overridden in a `conftest.py`, as any of pytest's. Nothing is deployed that no selected "
        "test uses.",
        _table(["fixture", "scope", "gives", "what it is"], rows),
    )


def _settings() -> str:
    rows = []
    for setting in table():
        value = f" {setting.metavar}" if setting.metavar else ""
        names = f"`{setting.option}{value}`<br>`{setting.key}`<br>`{setting.variable}`"
        default = _default(setting.default, repeatable=setting.repeatable)
        several = "; can be given several times" if setting.repeatable and "several" not in setting.help else ""
        rows.append([names, default, _cell(setting.help) + several])
    others = [[f"`{name}`", _cell(what)] for name, what in other_variables().items()]
    return _page(
        "Settings",
        "Each is an option of pytest, an ini key and a variable of the environment. An option counts more than the "
        "environment, that more than ini, and ini more than the default. The report's header tells what is in force, "
        "and from where.",
        "A setting that can be given several times has one value a line in ini, and `;` between its values in the "
        "environment. A relative path in ini is relative to the ini file. The commands of `nomad-testkit` that deploy "
        "have the same options without the prefix, such as `--clients`, and read the same variables.",
        _table(["option, ini key, environment", "default", "what it is"], rows),
        "## Other variables of the environment",
        _table(["variable", "what it is"], others),
    )


def _checks() -> str:
    names = _table(
        ["name", "check"],
        [[f"`{name}`", f"`{type(make(_sizes())).__name__}`"] for name, make in check.CHECKS.items()],
    )
    return _page(
        "Checks",
        "A check observes every server and then judges, so one that holds means that all servers agree. "
        "`nomad_cluster.require(CHECK, ..., within=SECONDS)` waits until all hold at the same time, and ends at once "
        "where one can no longer hold.",
        _autodoc("autofunction:: nomad_testkit.checks.require"),
        "## Of clusters and jobs",
        *[
            _autodoc(f"autoclass:: nomad_testkit.checks.{one.__name__}")
            for one in checks()
            if one.__module__ != healing.__name__
        ],
        "## Of healing",
        "For tests that break something.",
        *[
            _autodoc(f"autoclass:: nomad_testkit.checks.{one.__name__}")
            for one in checks()
            if one.__module__ == healing.__name__
        ],
        *[_autodoc(f"autofunction:: nomad_testkit.checks.{name}") for name in ("leader_of", "node_ids")],
        "## By name, for nomad-testkit check",
        "The numbers of hosts are those that the cluster was deployed with.",
        names,
        "## A check of your own",
        _autodoc("autoclass:: nomad_testkit.checks.Check", ":members:"),
        *[
            _autodoc(f"autoclass:: nomad_testkit.checks.{name}", ":members:")
            for name in ("Answer", "HostRef", "ClusterView")
        ],
        _autodoc("autofunction:: nomad_testkit.cluster.check.ask_every"),
    )


def _faults() -> str:
    return _page(
        "Faults",
        "The fixture `nomad_faults` is a `Faults` of the cluster. Each method makes a `Fault`, which is there for the "
        "time of a `with` block.",
        _autodoc(f"autoclass:: {faults.__name__}.Faults", ":members:"),
        _autodoc(f"autoclass:: {faults.__name__}.Fault", ":members:"),
        "## Writes that go on meanwhile",
        _autodoc("autofunction:: nomad_testkit.faults.writing"),
        _autodoc("autoclass:: nomad_testkit.faults.Workload", ":members:"),
    )


def _operations() -> str:
    return _page("Operations", _docstring(operations), *_exports(operations))


def _linearizability() -> str:
    return _page("Linearizability", _docstring(linearizability), *_exports(linearizability))


def _command_line() -> str:
    return _page(
        "Command line",
        _rst("click:: nomad_testkit.cli:main", ":prog: nomad-testkit", ":nested: full"),
        "## Exit codes",
        _table(["exit code", "what it means"], [[f"`{code}`", _cell(what)] for code, what in exit_codes().items()]),
        "`nomad-testkit ssh` passes on the status of its command; 255 is ssh's own. pytest's own exit codes are as "
        "always: 0 passed, 1 some failed, 2 interrupted, 3 internal error, 4 wrong usage, 5 no tests.",
    )


def exit_codes() -> dict[int, str]:
    """Read the exit codes as the command line tells them."""
    lines = [line.strip() for line in group.EXIT_CODES.splitlines()]
    pairs = [line.split(maxsplit=1) for line in lines if line[:1].isdigit()]
    return {int(code): what for code, what in pairs}


def _markers() -> str:
    rows = [[f"`{name}`", _cell(meaning)] for name, meaning in plugin._MARKERS.items()]
    return _page("Markers", "`pytest -m MARKER` chooses tests by them.", _table(["marker", "what it is for"], rows))


def _example_files() -> str:
    rows = []
    for name, type_ in TYPES.items():
        value = _WRONG.get(type_.python)
        rule = "" if value is None else type_.refused(value) or ""
        rows.append([f"`{name}`", _cell(type_.described), _cell(rule)])
    reserved = [[f"`${{{name}}}`", _cell(what)] for name, what in RESERVED.items()]
    return _page(
        "example.toml",
        "```{include} ../../examples/README.md\n:start-line: 2\n```",
        "## The types of variables",
        _table(["type", "in TOML", "what it has to be"], rows),
        "## Names that are always there",
        _table(["name", "what it is"], reserved),
    )


def _objects() -> str:
    parts = []
    for module, names in HELD.items():
        for name in names:
            found = getattr(importlib.import_module(module), name)
            if inspect.isclass(found):
                parts.append(_autodoc(f"autoclass:: {module}.{name}", ":members:"))
            else:
                parts.append(_autodoc(f"autofunction:: {module}.{name}"))
    return _page("What a test holds", "`nomad_cluster` is a `Cluster`, and so on.", *parts)


def _errors() -> str:
    module = importlib.import_module("nomad_testkit.errors")
    return _page(
        "Errors",
        _rst("automodule:: nomad_testkit.errors"),
        *[
            _autodoc(f"autoexception:: nomad_testkit.errors.{one.__name__}")
            for one in _public(module)
            if inspect.isclass(one) and issubclass(one, Exception)
        ],
    )


def _index() -> str:
    listed = "\n".join(f"examples/{name}" for name in EXAMPLES)
    return _page(
        "Reference",
        "Generated from the code.",
        "```{toctree}\n:maxdepth: 1\n\nfixtures\nsettings\nchecks\nfaults\noperations\nlinearizability\ncommand-line\n"
        f"markers\nobjects\nerrors\nexample-files\n{listed}\n```",
    )


def _include(name: str) -> str:
    return f"```{{include}} ../../../examples/{name}/README.md\n```\n"


def _exports(module: Any) -> Iterable[str]:
    for name in module.__all__:
        found = getattr(module, name)
        kind = "autoclass" if inspect.isclass(found) else "autofunction"
        yield _autodoc(f"{kind}:: {module.__name__}.{name}")


def _public(module: Any) -> list[Any]:
    return [
        one
        for name, one in vars(module).items()
        if not name.startswith("_") and getattr(one, "__module__", "") == module.__name__
    ]


def _sizes() -> Any:
    from nomad_testkit.examples.example import Sizes

    return Sizes(consul_servers=3, nomad_servers=3, nomad_clients=6)


def _constant_docstring(module: Any, constant: str) -> str:
    body = ast.parse(inspect.getsource(module)).body
    for statement, after in pairwise(body):
        named = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == constant
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return str(after.value.value)
    raise ValueError(f"{module.__name__}.{constant} has no docstring")


def _default(value: object, *, repeatable: bool) -> str:
    if repeatable or value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _docstring(module: Any) -> str:
    return inspect.cleandoc(module.__doc__ or "").split("\n\n")[0]


def _one_line(thing: Any) -> str:
    return _cell(" ".join(inspect.cleandoc(thing.__doc__ or "").split()).replace("``", "`"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _autodoc(directive: str, *options: str) -> str:
    return _rst(directive, *options)


def _rst(directive: str, *options: str) -> str:
    body = "\n".join([f".. {directive}", *(f"   {option}" for option in options)])
    return f"```{{eval-rst}}\n{body}\n```"
