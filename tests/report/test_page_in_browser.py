"""The page in a real Chromium: as wide as a phone and as a desk, dark, printed, by keyboard, and for screen readers."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from made_reports import instance

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

OpenPage = Callable[..., Any]
PHONE, DESK = 360, 1280
NAMES = ("green", "red", "interrupted", "without")


def box(found: Locator) -> dict[str, float]:
    """Tell where something is: its edges, in pixels."""
    at = found.bounding_box()
    assert at is not None, f"{found} is not shown"
    return {"left": at["x"], "top": at["y"], "right": at["x"] + at["width"], "bottom": at["y"] + at["height"]}


def boxes(page: Page, selector: str) -> list[dict[str, float]]:
    return [box(found) for found in page.locator(selector).all()]


def brightness(page: Page, selector: str, which: str) -> float:
    """Tell how bright a colour is, from 0 to 255."""
    colour = page.locator(selector).first.evaluate(f"found => getComputedStyle(found).{which}")
    red, green, blue = map(float, re.findall(r"[\d.]+", colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_is_wider_than_the_window(name: str, width: int, opened: OpenPage) -> None:
    with opened(name, width=width, unfolded=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        outside = page.evaluate(
            """() => [...document.querySelectorAll("main *:not(.sr)")]
                .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5)
                .filter(one => !one.closest(".stack thead, .sr"))
                .map(one => one.outerHTML.slice(0, 90))"""
        )
        assert outside == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "light"), (DESK, "dark")])
def test_axe_finds_nothing(name: str, width: int, scheme: str, opened: OpenPage) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(name, width=width, scheme=scheme, unfolded=True) as page:
        found = Axe().run(page).response
    violations = [
        (one["id"], one["help"], node["html"][:120], node["any"][:1])
        for one in found["violations"]
        for node in one["nodes"]
    ]
    assert violations == []
    passed = {one["id"] for one in found["passes"]}
    assert {"color-contrast", "landmark-one-main", "page-has-heading-one", "region"} <= passed


def test_the_parts_stand_where_they_belong(opened: OpenPage) -> None:
    with opened("green") as page:
        hero, nav, main = box(page.locator("header.hero")), box(page.locator("nav")), box(page.locator("main"))
        assert (hero["left"], hero["right"]) == (0, DESK)
        assert hero["bottom"] <= nav["top"] < nav["bottom"] <= main["top"]
        tiles = boxes(page, ".tiles li")
        assert len({tile["top"] for tile in tiles}) == 1
        assert [tile["left"] for tile in tiles] == sorted({tile["left"] for tile in tiles})
        zones = boxes(page, "main > section:first-of-type .zone")
        assert len(zones) == 3
        assert len({zone["top"] for zone in zones}) == 1
        assert all(one["right"] < other["left"] for one, other in pairwise(zones))
        row = page.locator("table.lines tr").first
        assert box(row.locator("th"))["right"] <= box(row.locator("svg"))["left"]
        assert abs(box(row.locator("th"))["top"] - box(row.locator("td"))["top"]) < 2


def test_on_a_phone_the_parts_stand_below_one_another(opened: OpenPage) -> None:
    with opened("green", width=PHONE, unfolded=True) as page:
        tiles = boxes(page, ".tiles li")
        assert len({tile["left"] for tile in tiles}) == 2
        zones = boxes(page, "main > section:first-of-type .zone")
        assert len({zone["left"] for zone in zones}) == 1
        assert all(one["bottom"] < other["top"] for one, other in pairwise(zones))
        row = page.locator("table.lines tr").first
        assert box(row.locator("th"))["bottom"] <= box(row.locator("svg"))["top"]
        check = page.locator("table.stack tbody tr").first
        cells = [box(cell) for cell in check.locator("th, td").all()]
        assert [cell["top"] for cell in cells] == sorted({cell["top"] for cell in cells})
        # Texts of the drawings, as they are shown there.
        heights = page.evaluate(
            """() => [...document.querySelectorAll(".zone text")]
                .map(one => parseFloat(getComputedStyle(one).fontSize) * one.getScreenCTM().a)"""
        )
        assert min(heights) >= 8.5


def test_hosts_and_allocations_stay_in_their_boxes(opened: OpenPage) -> None:
    with opened("green") as page:
        for group in page.locator(".zone g").all():
            frame = box(group.locator("rect.box"))
            inside = [box(one) for one in group.locator("text, rect.badge, rect.alloc, use").all()]
            assert len(inside) >= 4
            for one in inside:
                assert frame["left"] <= one["left"], group.text_content()
                assert one["right"] <= frame["right"], group.text_content()
                assert frame["top"] <= one["top"] <= one["bottom"] <= frame["bottom"], group.text_content()
            badges = [box(one) for one in group.locator("rect.badge").all()]
            for badge, words in zip(badges, group.locator("text.t-badge").all(), strict=True):
                assert badge["left"] < box(words)["left"] < box(words)["right"] < badge["right"]


def test_the_line_of_a_host_shows_its_phases_in_proportion(opened: OpenPage) -> None:
    with opened("green") as page:
        line = page.locator("table.lines svg.line").first
        track = box(line.locator("rect.track"))
        parts = [box(line.locator(f"rect.phase-{number}")) for number in range(5)]
        for one, other in pairwise(parts):
            assert one["right"] == pytest.approx(other["left"], abs=1)
        width = track["right"] - track["left"]
        assert (parts[0]["left"] - track["left"]) / width == pytest.approx(0.6 / 15.4, abs=0.005)
        assert (parts[1]["right"] - parts[1]["left"]) / width == pytest.approx(4.6 / 15.4, abs=0.005)
        assert parts[4]["right"] == pytest.approx(track["right"], abs=1)


def test_dark_is_dark_and_light_is_light(opened: OpenPage) -> None:
    for scheme, paper, ink in (("light", (200, 256), (0, 80)), ("dark", (0, 60), (180, 256))):
        with opened("green", scheme=scheme) as page:
            for selector in ("body", ".card"):
                assert paper[0] <= brightness(page, selector, "backgroundColor") < paper[1]
            assert ink[0] <= brightness(page, "body", "color") < ink[1]
            assert ink[0] <= brightness(page, ".zone text.t-name", "fill") < ink[1]


def test_green_and_red_differ_by_more_than_colour(opened: OpenPage) -> None:
    shapes, words = set(), set()
    for name in ("green", "red", "interrupted"):
        with opened(name) as page:
            shapes.add(page.locator(".verdict use").get_attribute("href"))
            words.add(page.locator(".verdict .word").inner_text().lower())
    assert shapes == {"#i-pass", "#i-fail", "#i-warn"}
    assert words == {"green", "red", "interrupted"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_printed_everything_is_unfolded_on_white(scheme: str, opened: OpenPage) -> None:
    with opened("green", scheme=scheme) as page:
        hidden = page.locator("details:not([open]) td").first
        assert hidden.bounding_box() is None or not hidden.is_visible()
        page.emulate_media(media="print", color_scheme=scheme)
        assert not page.locator("nav").is_visible()
        assert brightness(page, "body", "backgroundColor") == pytest.approx(255)
        for cell in page.locator("details td").all():
            assert box(cell)["bottom"] > box(cell)["top"]
            assert cell.is_visible()
        printed: bytes = page.pdf(format="A4", print_background=True)
        assert printed.startswith(b"%PDF-")
        assert len(re.findall(rb"/Type\s*/Page\b", printed)) in range(3, 12)


def test_by_keyboard(opened: OpenPage) -> None:
    with opened("green") as page:
        page.keyboard.press("Tab")
        skip = page.locator(":focus")
        assert skip.inner_text() == "Skip to the content"
        assert box(skip)["left"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        reached: list[str] = []
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() == 0:
                break
            reached.append(focused.evaluate("one => one.tagName"))
            outline = focused.evaluate("one => getComputedStyle(one).outlineStyle + getComputedStyle(one).outlineWidth")
            assert outline == "solid3px"
            if reached[-1] == "SUMMARY" and focused.locator("xpath=..").get_attribute("class") == "test":
                break
        assert reached[-1] == "SUMMARY"
        table = page.locator("details.test").first.locator("table")
        assert not table.is_visible()
        page.keyboard.press("Enter")
        assert table.is_visible()


def test_what_a_screen_reader_is_told(opened: OpenPage) -> None:
    with opened("green", unfolded=True) as page:
        assert page.get_by_role("navigation", name="Sections").count() == 1
        zone = page.get_by_role("img", name="Availability zone us-east-1a").first
        told = zone.evaluate(
            "one => document.getElementById(one.getAttribute('aria-labelledby').split(' ')[1]).textContent"
        )
        assert f"servers-0 ({instance(1)}, Consul and Nomad server), Consul leader, Nomad leader" in told
        line = page.get_by_role("img", name=re.compile(r"^servers-0: pending 0\.3 s, booting 4\.6 s")).first
        assert line.is_visible()
        checks = page.get_by_role("table", name="What was checked, and what was seen").first
        assert checks.get_by_role("columnheader").all_inner_texts() == ["Check", "Wanted", "Seen", "Where", "Took"]
        assert checks.get_by_role("rowheader", name="RaftPeers consul held").count() == 1
        assert page.get_by_role("heading", level=1).count() == 1


def test_links_lead_to_hosts_tests_and_evidence(opened: OpenPage) -> None:
    with opened("green") as page:
        row = page.locator(f"#host-{instance(1)}")
        assert not row.is_visible()
        page.locator(f"article a[href='#host-{instance(1)}']").first.click()
        row.wait_for(state="visible")  # the folded table opens by itself
        assert box(row)["top"] < 900
    with opened("red") as page:
        page.get_by_text("2 files").click()
        page.get_by_role("link", name="servers-i-1/nomad journal.log").click()
        page.wait_for_url("**/nomad%20journal.log")
        assert page.locator("body").inner_text() == "x"
    with opened("red", unfolded=True) as page:
        page.get_by_role("link", name="javascript:alert(1)").evaluate("one => one.click()")
        page.wait_for_url("**/javascript%3Aalert%281%29")
