"""A picture of the package: its layers as the import test states them, with what each folder says of itself."""

from __future__ import annotations

import ast
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT_TEST = ROOT / "tests/unit/test_imports.py"
WIDTH, ROW, GAP, MARGIN = 760, 58, 8, 12
TEXT_WIDTH = 7
"""Pixels of a character, about."""


def layers() -> list[list[str]]:
    """Read the layers of the import test, from the lowest up.

    >>> layers()[0]
    ['errors']
    """
    for node in ast.parse(IMPORT_TEST.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LAYERS":
            lines = ast.literal_eval(node.value).replace("__main__", "").strip().splitlines()
            return [line.split() for line in lines]
    raise LookupError(f"{IMPORT_TEST} has no LAYERS")


def says(name: str) -> str:
    """Give the first sentence that a module or folder says of itself."""
    package = ROOT / "nomad_testkit"
    path = package / name / "__init__.py" if (package / name).is_dir() else package / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("``", "").removesuffix(":").removesuffix(".")


def svg() -> str:
    """Draw the layers, the highest on top: each imports only what is below it, or to its left."""
    rows = layers()[::-1]
    height = len(rows) * (ROW + GAP) + 2 * MARGIN
    view, font = f'viewBox="0 0 {WIDTH} {height}"', 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view} {font}>',
        "<title>The layers of nomad_testkit</title>",
    ]
    for number, row in enumerate(rows):
        top = MARGIN + number * (ROW + GAP)
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for place, name in enumerate(row):
            left = MARGIN + place * (width + GAP)
            lines = textwrap.wrap(says(name), int(width / TEXT_WIDTH) - 2, max_lines=2, placeholder=" …")
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{ROW}" rx="6" fill="#eef3f8" '
                f'stroke="#5b7a99"/><text x="{left + 10:.0f}" y="{top + 18}" font-weight="bold" fill="#1d3347">'
                f"{escape(name)}</text>"
            )
            parts += [
                f'<text x="{left + 10:.0f}" y="{top + 34 + 15 * line}" fill="#33475b">{escape(text)}</text>'
                for line, text in enumerate(lines)
            ]
    return "\n".join([*parts, "</svg>\n"])
