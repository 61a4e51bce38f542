"""The site as Sphinx makes it: nothing of it comes from the network, and the reference has all that the code has."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
import reference_pages
from documents import DOCS

from nomad_testkit.cli import main
from nomad_testkit.settings import table


class Page(HTMLParser):
    """What a page loads, its anchors, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "link", "iframe"):
            self.loaded += [value for name in ("src", "href") if (value := given.get(name))]
        if anchor := given.get("id"):
            self.anchors.add(anchor)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site that tox has built, or else one that is built now; a warning, such as of a dead link, is an error."""
    if built := os.environ.get("DOCS_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", str(DOCS), str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (made.returncode, made.stdout + made.stderr) == (0, "")
    return folder


def test_every_page_is_in_the_site_and_needs_no_network(site: Path) -> None:
    written = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md") if "_build" not in path.parts}
    pages = {path.relative_to(site) for path in site.rglob("*.html")}
    assert len(written) > 25
    assert written <= pages
    for path in pages:
        page = Page(site / path)
        assert page.loaded
        assert [url for url in page.loaded if re.match(r"(https?:)?//", url)] == [], path
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


def test_the_reference_has_every_check_command_and_option(site: Path) -> None:
    checks = Page(site / "reference/checks.html")
    for check in reference_pages.checks():
        assert f"nomad_testkit.checks.{check.__name__}" in checks.anchors
    line = Page(site / "reference/command-line.html")
    text = re.sub(r"\n+", "\n", line.text)
    for name, command in walk("nomad-testkit", main):
        assert f"Usage\n{name}" in text, name
        for option in (one for one in command.params if isinstance(one, click.Option)):
            assert option.opts[0] in line.text, (name, option.opts)
    settings = Page(site / "reference/settings.html").text
    for setting in table():
        assert setting.option in settings
        assert setting.variable in settings


def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            yield from walk(f"{name} {below}", one)


def test_signatures_are_a_readers_and_their_types_are_linked(site: Path) -> None:
    for path in (site / "reference").glob("*.html"):
        for signature in re.findall(r'<dt class="sig sig-object py".*?</dt>', path.read_text(), re.DOTALL):
            text = html.unescape(re.sub(r"<[^>]+>", "", signature))
            assert re.findall(r"<\w[^>]*>|~[a-z]\w*\.|\bobject at 0x", text) == [], (path.name, text)
    objects = (site / "reference/objects.html").read_text()
    for name in ("Settings", "targets.Target", "cluster.host.UnitState", "ssh.CommandResult", "wait.Deadline"):
        assert f'id="nomad_testkit.{name}"' in objects
    for name in ("cluster.host.UnitState", "ssh.CommandResult", "wait.Deadline"):
        assert f'title="nomad_testkit.{name}"' in objects, f"no signature links {name}"


def test_blocks_have_a_button_that_copies_them(site: Path) -> None:
    assert any("copybutton" in url for url in Page(site / "tutorial.html").loaded)


def test_the_first_page_lists_every_page(site: Path) -> None:
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*/*.md"):
        name = page.relative_to(DOCS).as_posix()
        if not name.startswith(("reference/", "_build/")):
            assert f"({name})" in index, name
