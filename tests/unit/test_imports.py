"""Which module may import which: the layers of the package, from the bottom up."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

import pytest

import nomad_testkit

PACKAGE = Path(nomad_testkit.__file__).parent

# Each name may import only names above it, or to its left. A name stands for a module or for a folder of modules, and
# those may import each other.
LAYERS = """
    errors
    forks wait events
    ssh settings
    images
    modules
    examples
    runs
    ec2
    targets
    cluster
    checks
    faults operations
    deployment
    report
    plugin
    cli suite __main__
"""
LEVEL = {name: level for level, name in enumerate(LAYERS.split())}

# Neither imports another module of the package: setup runs before anything is installed, host scripts on a host.
ALONE = ("setup",)

# A part of the package that must stay ignorant of others, whatever its level allows.
IGNORANT_OF = {
    "ec2": ("nomad", "consul", "pytest", "modules", "cluster"),
    "modules": ("targets", "ec2"),
}
IMPORT_PYTEST = ("plugin", "suite")

# What users may import, and so all that the bundled suite does, but for tests of the kit's own inside.
PUBLIC = ("nomad_testkit", *(f"nomad_testkit.{name}" for name in ("checks", "faults", "operations", "errors")))
INSIDE = {
    "test_ami": "examples.login_key",
    "test_backups": "cluster.jobs",
    "test_encrypted": "cluster.clients cluster.clients.access cluster.secrets ec2.vpc.certificates",
    "test_upgrade": "targets",
}


def modules() -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if "_bundled" not in path.parts and "host_scripts" not in path.parts
    ]


def dotted(path: Path) -> str:
    """Return a module's name within the package: ``ec2.network``, or ``ec2`` for its ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Imports(ast.NodeVisitor):
    """Every module that is imported anywhere in a file, functions included; TYPE_CHECKING apart."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.found: list[tuple[int, str]] = []
        self.for_types_only: list[tuple[int, str]] = []
        self._into = self.found

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self._into = self.for_types_only
            for child in node.body:
                self.visit(child)
            self._into = self.found
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._into += [(node.lineno, alias.name) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
        if base == "nomad_testkit":  # from nomad_testkit import cache
            self._into += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        else:
            self._into.append((node.lineno, base))

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
            self._into.append((node.lineno, str(node.args[0].value)))
        self.generic_visit(node)


def imports_of(path: Path) -> Imports:
    parts = ("nomad_testkit", *path.relative_to(PACKAGE).parent.parts)
    found = Imports(".".join(parts))
    found.visit(ast.parse(path.read_text(), str(path)))
    return found


def own(name: str) -> str | None:
    """Return the part of the package that an imported name belongs to, or None for another package's."""
    parts = name.split(".")
    if parts[0] != "nomad_testkit":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in TOP else "__init__"


TOP = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}


def test_every_module_has_a_layer() -> None:
    unknown = {part for path in modules() if (part := dotted(path).split(".")[0])} - set(LEVEL) - set(ALONE)
    assert unknown == set(), "add them to LAYERS, as low as they can stand"


@pytest.mark.parametrize("path", modules(), ids=lambda path: dotted(path) or "nomad_testkit")
def test_imports_point_downwards(path: Path) -> None:
    name = dotted(path)
    part = name.split(".")[0]
    imports = imports_of(path)
    used = imports.found if name == "" else imports.found + imports.for_types_only
    wrong = []
    for line, imported in used:
        target = own(imported)
        if target in (None, part, "__init__", *ALONE):
            continue
        if name == "" or part in ALONE:
            wrong.append(f"{path}:{line} imports {imported}, but may import nothing of the package")
        elif LEVEL[str(target)] >= LEVEL[part]:
            wrong.append(f"{path}:{line} imports {imported}, which stands above {part} or to its right")
    assert wrong == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: dotted(path) or "nomad_testkit")
def test_only_the_plugin_imports_pytest(path: Path) -> None:
    if dotted(path).split(".")[0] in IMPORT_PYTEST:
        return
    imports = imports_of(path)
    found = [
        f"{path}:{line}"
        for line, name in imports.found + imports.for_types_only
        if name.split(".")[0] in ("pytest", "_pytest", "xdist")
    ]
    assert found == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "suite").glob("*.py")), ids=lambda path: path.stem)
def test_the_bundled_suite_imports_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text())
    types = {one for node in ast.walk(tree) if isinstance(node, ast.If) for one in node.body}
    imports = [one for one in ast.walk(tree) if isinstance(one, ast.ImportFrom) and one not in types]
    used = {one.module for one in imports if one.module and one.module.startswith("nomad_testkit")} - set(PUBLIC)
    assert used == {f"nomad_testkit.{name}" for name in INSIDE.get(path.stem, "").split()}


@pytest.mark.parametrize("part", IGNORANT_OF)
def test_what_must_stay_ignorant_does(part: str) -> None:
    found = []
    for path in modules():
        if dotted(path).split(".")[0] == part:
            imports = imports_of(path)
            for line, name in imports.found + imports.for_types_only:
                if (own(name) or name.split(".")[0]) in IGNORANT_OF[part]:
                    found.append(f"{path}:{line} imports {name}")
    assert found == []


def test_the_installed_plugin_is_named_after_its_module() -> None:
    # Any other name makes `pytest_plugins` in a conftest.py register it a second time, which pytest refuses.
    points = importlib.metadata.entry_points(group="pytest11")
    assert [(point.name, point.value) for point in points if point.value.startswith("nomad_testkit")] == [
        ("nomad_testkit.plugin", "nomad_testkit.plugin")
    ]


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    found = Imports("nomad_testkit.ec2")
    found.visit(
        ast.parse(
            "import a.b\n"
            "from c import d\n"
            "from . import e\n"
            "from ..wait import f\n"
            "from nomad_testkit.images import cache\n"
            "if TYPE_CHECKING:\n    from g import h\nelse:\n    import i\n"
            "def lazy():\n    import j\n    importlib.import_module('k')\n"
        )
    )
    own_modules = [f"nomad_testkit.{name}" for name in ("ec2", "wait", "images")]
    assert [name for _, name in found.found] == ["a.b", "c", *own_modules, "i", "j", "k"]
    assert [name for _, name in found.for_types_only] == ["g"]
