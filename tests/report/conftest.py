"""Pages of reports in a real Chromium: the system's, without a network of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_reports import green, interrupted, red, without_cluster

from nomad_testkit.report.page import write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OpenPage = Callable[..., Any]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "green": green(2),
        "red": red(folder / "artifacts"),
        "interrupted": interrupted(),
        "without": without_cluster(),
    }
    return {name: write(report, folder / f"{name}.html") for name, report in reports.items()}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; its profile is a new folder, which is removed."""
    # Imported here: all environments but the one of these tests collect this file too.
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "there is no chromium in PATH; `python -m nomad_testkit.setup --install chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, pages: dict[str, Path]) -> OpenPage:
    """Open a page; on leaving, it must have asked for nothing and have said nothing in the console."""

    @contextmanager
    def open_page(name: str, *, width: int = 1280, scheme: Any = "light", unfolded: bool = False) -> Iterator[Page]:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(20_000)
        page = context.new_page()
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(pages[name].as_uri())
        if unfolded:
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        try:
            yield page
        finally:
            context.close()
        assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
        assert said == []

    return open_page
