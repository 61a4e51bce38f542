"""What README and documentation say is true as far as that can be seen without a cluster; tests/docs runs the rest."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import re
import shutil
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
import reference_pages
from documents import COMMANDS, DOCS, ROOT, Block, anchors, blocks, commands, links, pages

import nomad_testkit
from nomad_testkit import plugin
from nomad_testkit.checks import healing
from nomad_testkit.cli import main
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.iam_policies import POLICIES
from nomad_testkit.modules.security_group_rules import RULE_SETS
from nomad_testkit.settings import Settings, table

PACKAGE = Path(nomad_testkit.__file__).parent
ALL = [block for page in pages() for block in blocks(page)]
VALUES = {"$ami": "ami-0123456789abcdef0"}
"""What a variable of a page's shell holds."""


def of(language: str) -> list[Block]:
    return [block for block in ALL if block.language == language]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with no runs, and with what the guides make in theirs."""
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for name in ("my-cluster", "our-image"):
        bundled = "nomad-consul-ami" if name == "our-image" else "nomad-consul-colocated-cluster"
        shutil.copytree(ROOT / "examples" / bundled, tmp_path / name)
    shutil.copytree(ROOT / "tests/terraform/colocated", tmp_path / "my-terraform")
    return tmp_path


@pytest.mark.parametrize("block", of(COMMANDS), ids=str)
def test_every_command_line_is_one(block: Block, scratch: Path, pytestconfig: pytest.Config) -> None:
    found = commands(block.text)
    assert found, "there is no command in it"
    for words in [[VALUES.get(word, word) for word in words] for words in found]:
        if words[:3] == ["python", "-m", "nomad_testkit"]:
            parse_own(words[3:])
        elif words[0] == "nomad-testkit":
            parse_own(words[1:])
        elif words[0] == "pytest":
            parse_pytest(words[1:], pytestconfig)
        elif words[0] == "tox" or "nomad_testkit.setup" in words:
            assert_environments(words)


def parse_own(words: list[str]) -> None:
    """Parse a command as click does, without running it."""
    command: click.Command = main
    parent, name, left = None, "nomad-testkit", list(words)
    while isinstance(command, click.Group):
        context = command.make_context(name, left, parent=parent)
        name, found, left = command.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[assignment]
        assert found is not None
        command, parent = found, context
    if left == ["--help"]:
        return
    command.make_context(name, left, parent=parent)


def parse_pytest(words: list[str], config: pytest.Config) -> None:
    known, unknown = config._parser.parse_known_and_unknown_args(words)
    assert unknown == []
    given = {setting.key: getattr(known, setting.key) for setting in table()}
    for setting in table():
        value = given[setting.key]
        if setting.name != "terraform":  # a file of this machine's
            for text in [value] if isinstance(value, str) else value or ():
                setting.parse(text)
    if known.markexpr:
        names = {name.partition("(")[0] for name in plugin._MARKERS}
        assert set(re.findall(r"\w+", known.markexpr)) - {"not", "and", "or"} <= names


def assert_environments(words: list[str]) -> None:
    ini = (ROOT / "tox.ini").read_text()
    for after, word in zip(words[1:], words, strict=False):
        if word == "-e":
            for name in after.split(","):
                assert f"[testenv:{name}]" in ini


def test_a_command_that_is_none_is_seen(scratch: Path, pytestconfig: pytest.Config) -> None:
    for words in (["stauts"], ["up"], ["up", "x", "--nmae", "y"], ["ami", "bild"], ["check", "--within", "soon"]):
        with pytest.raises(click.ClickException):
            parse_own(words)
    with pytest.raises(AssertionError):
        parse_pytest(["--nomad-sever", "1"], pytestconfig)
    with pytest.raises(ValueError, match="whole number"):
        parse_pytest(["--nomad-servers", "none"], pytestconfig)
    with pytest.raises(AssertionError):
        parse_pytest(["-m", "seperate"], pytestconfig)
    with pytest.raises(AssertionError):
        assert_environments(["tox", "-e", "unknown"])


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    reasons = [block.notes["not run"] for block in ALL if "not run" in block.notes]
    assert len(reasons) <= 6, reasons
    assert all(len(reason.split()) > 3 for reason in reasons)


def test_commands_are_found_wherever_they_stand() -> None:
    script = 'A=1 nomad-testkit up "a b" | cat > x\neval "$(nomad-testkit env)" && ! pytest -k \'b c\'\n'
    assert [words for words in commands(script) if words[0] not in ("cat", "eval")] == [
        ["nomad-testkit", "up", "a b"],
        ["nomad-testkit", "env"],
        ["pytest", "-k", "b c"],
    ]


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_every_python_block_compiles_and_its_imports_are_there(block: Block) -> None:
    tree = ast.parse(block.text)
    own = {Path(one.notes["file"]).stem for one in ALL if "file" in one.notes and one.page == block.page}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module not in own:
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"
        elif isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_every_fixture_that_a_python_block_asks_for_is_there(block: Block) -> None:
    known = {*reference_pages.fixtures(), "self", "request", "tmp_path", "cluster", "observed", "host"}
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.FunctionDef) and (node.name.startswith("test_") or node.decorator_list):
            assert {argument.arg for argument in node.args.args} <= known | {"self"}


@pytest.mark.parametrize("block", [*of("toml"), *of("json")], ids=str)
def test_data_is_valid(block: Block) -> None:
    assert (tomllib.loads if block.language == "toml" else json.loads)(block.text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    generated = {DOCS / reference_pages.FOLDER / name for name in reference_pages.pages()}
    for link in links(page):
        url = urlsplit(link)
        if url.scheme:
            continue
        path = (page.parent / url.path).resolve() if url.path else page
        assert path.exists() or path in generated, link
        # Sphinx looks at the anchors of what is generated.
        if url.fragment and path not in generated:
            assert url.fragment in anchors(path), link


def test_every_variable_of_the_environment_that_is_named_is_one() -> None:
    known = {*(setting.variable for setting in table()), *reference_pages.other_variables()}
    for page in pages():
        named = set(re.findall(r"\bNOMAD_TESTKIT_[A-Z_]+", page.read_text()))
        assert named <= known, page


def test_what_a_block_prints_comes_after_a_command() -> None:
    for before, block in zip([None, *ALL], ALL, strict=False):
        if "prints" in block.notes:
            assert block.language == "text"
            assert before is not None, block
            assert before.page == block.page
            assert before.language == COMMANDS
        if "file" in block.notes or "part" in block.notes:
            assert block.language in ("python", "toml", "hcl", "ini"), block


def test_every_setting_is_in_the_reference() -> None:
    text = reference_pages.pages()["settings.md"]
    for setting in table():
        assert f"| `{setting.option}" in text
        assert f"`{setting.key}`" in text
        assert f"`{setting.variable}`" in text
    assert Settings.load(environ={})  # the table is that of the class


def test_every_variable_of_the_environment_is_in_the_reference() -> None:
    text = reference_pages.pages()["settings.md"]
    named = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'"(NOMAD_TESTKIT_[A-Z]+[A-Z_]*[A-Z])"', path.read_text())
    }
    assert "NOMAD_TESTKIT_CACHE" in named
    for name in named:
        assert f"`{name}`" in text


def test_every_fixture_is_in_the_reference() -> None:
    text = reference_pages.pages()["fixtures.md"]
    tree = ast.parse((PACKAGE / "plugin" / "fixtures.py").read_text())
    found = {
        node.name: ast.get_docstring(node)
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)
    }
    assert "nomad_cluster" in found
    for name, docstring in found.items():
        assert f"| `{name}` |" in text
        assert docstring


def test_every_check_is_in_the_reference_and_has_an_example() -> None:
    text = reference_pages.pages()["checks.md"]
    named = {path.stem: path.read_text() for path in (PACKAGE / "checks").glob("*.py")}
    exported = set(importlib.import_module("nomad_testkit.checks").__all__)
    classes = set(
        re.findall(r"^class (\w+)\(\w*Check\[|^class (\w+)\(AutopilotHealthy", "\n".join(named.values()), re.MULTILINE)
    )
    names = {one or other for one, other in classes} & (exported | set(vars(healing)))
    assert len(names) > 15
    for name in names:
        assert f"checks.{name}" in text or f"healing.{name}" in text, name
    for check in reference_pages.checks():
        assert doctest.DocTestParser().get_examples(inspect.getdoc(check) or ""), f"{check.__name__} has no example"


def test_every_command_is_in_the_reference() -> None:
    # sphinx-click lists whatever the group has; here it is only seen that it is asked to.
    assert (
        ".. click:: nomad_testkit.cli:main\n   :prog: nomad-testkit\n   :nested: full"
        in (reference_pages.pages()["command-line.md"])
    )
    assert set(reference_pages.exit_codes()) == {0, 1, 2, 130}


def test_every_marker_and_type_of_variable_is_in_the_reference() -> None:
    made = reference_pages.pages()
    for name in plugin._MARKERS:
        assert f"| `{name}` |" in made["markers.md"]
    used = {one.type for one in Example.load("nomad-consul-colocated-cluster").declarations.values()}
    for name in used:
        assert f"| `{name}` |" in made["example-files.md"]


def test_the_readmes_of_examples_tell_what_is_added_to_each_group() -> None:
    text = (ROOT / "examples/README.md").read_text()
    for name in (*RULE_SETS, *POLICIES):
        assert f"`{name}`" in text
    for topology in ("colocated", "separate"):
        folder = ROOT / f"examples/nomad-consul-{topology}-cluster"
        rows = re.findall(r"^\| `(\w+)` \| ([\w-]+) \| ([\w, -]*)\|", (folder / "README.md").read_text(), re.MULTILINE)
        told = {group: [module, sorted(added.replace(",", "").split())] for group, module, added in rows}
        groups = tomllib.loads((folder / "example.toml").read_text())["groups"]
        declared = {name: [one["module"], sorted(one.get("extra_modules", []))] for name, one in groups.items()}
        assert told == declared


def test_the_guide_tells_which_variables_of_a_configuration_a_run_fills_in() -> None:
    text = (DOCS / "how-to/terraform.md").read_text()
    tree = ast.parse((PACKAGE / "deployment/terraform/apply.py").read_text())
    (function,) = (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "_suggested")
    keys = [key for node in ast.walk(function) if isinstance(node, ast.Dict) for key in node.keys]
    keys += [
        node.slice
        for node in ast.walk(function)
        if isinstance(node, ast.Subscript) and "suggested" in ast.unparse(node)
    ]
    names = {str(key.value) for key in keys if isinstance(key, ast.Constant)}
    assert {"aws_region", "ssh_key_name"} <= names
    for name in names:
        assert f"`{name}`" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for name, text in reference_pages.pages().items():
        for part in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
            head, *rows = [len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines()]
            assert set(rows) == {head}, name


def test_a_page_that_is_no_more_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text("# old")
    reference_pages.write(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(reference_pages.pages())
    before = (tmp_path / "fixtures.md").stat().st_mtime_ns
    reference_pages.write(tmp_path)
    assert (tmp_path / "fixtures.md").stat().st_mtime_ns == before
