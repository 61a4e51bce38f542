"""The README and the documentation as tests see them: their fenced blocks, and what stands before each in a comment.

A comment in HTML before a block tells tests what a reader learns from the text around it:

``<!-- file: NAME -->``      the block is the content of that file, in the folder that the commands run in
``<!-- prints -->``          the block is what the command before it prints, with ``...`` for what differs
``<!-- exit: N -->``         the last command of the block ends with that status
``<!-- not run: WHY -->``    the block is only looked at, not run
``<!-- part: NAME -->``      the block is part of that file, and no use by itself

At the top of a page, ``<!-- account -->`` has its commands run with an embedded EC2 in the place of an AWS account.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import cast

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMANDS = "bash"
LANGUAGES = (COMMANDS, "python", "toml", "hcl", "text", "json", "yaml", "ini")
NOTES = ("file", "prints", "exit", "not run", "part", "account")
_NOTE = re.compile(r"<!--\s*([a-z ]+?)\s*(?::\s*(.*?))?\s*-->", re.DOTALL)
_MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    notes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language == COMMANDS and "not run" not in self.notes


def pages() -> list[Path]:
    """List all that is written by hand; what is generated is not."""
    written = [path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in ("reference", "_build")]
    return [ROOT / "README.md", *sorted(written), *sorted((ROOT / "examples").rglob("README.md"))]


def tokens(page: Path) -> list[Token]:
    return _MARKDOWN.parse(page.read_text())


def blocks(page: Path) -> list[Block]:
    """List the blocks of a page, in its order; directives of MyST are none."""
    found, notes = [], dict[str, str]()
    for token in tokens(page):
        if token.type == "html_block":
            for name, value in _NOTE.findall(token.content):
                assert name in NOTES, f"{page}:{token.map}: {name} is none of {NOTES}"
                notes[name] = " ".join(value.split())
        elif token.type == "code_block":
            raise AssertionError(f"{page}:{_line(token)}: an indented block has no language; fence it")
        elif token.type == "fence" and not token.info.startswith("{"):
            assert token.info in LANGUAGES, f"{page}:{_line(token)}: {token.info!r} is none of {LANGUAGES}"
            found.append(Block(page, _line(token), token.info, token.content, notes))
            notes = {}
    return found


def has_account(page: Path) -> bool:
    return any("account" in dict(_NOTE.findall(token.content)) for token in tokens(page) if token.type == "html_block")


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        for child in token.children or ():
            if child.type in ("link_open", "image"):
                yield str(child.attrGet("href" if child.type == "link_open" else "src"))


def anchors(page: Path) -> set[str]:
    """Name the headings of a page as GitHub and MyST do."""
    all_tokens = tokens(page)
    titles = [after.content for one, after in pairwise(all_tokens) if one.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> list[list[str]]:
    """List the simple commands of a script, those in $( ) too, each as its words; assignments are left out."""
    import tree_sitter
    import tree_sitter_bash

    tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language())).parse(text.encode())
    assert not tree.root_node.has_error, f"bash would not understand: {text}"
    found = []
    todo = [tree.root_node]
    while todo:
        node = todo.pop(0)
        todo[:0] = node.children
        if node.type == "declaration_command":
            found.append(cast(bytes, node.text).decode().split())
        if node.type == "command":
            named = node.child_by_field_name("name")
            arguments = node.children_by_field_name("argument")
            words = [one for one in (named, *arguments) if one is not None]
            found.append([_word(cast(bytes, one.text).decode()) for one in words])
    return found


def _word(text: str) -> str:
    return text[1:-1] if text[:1] in ("'", '"') and text[-1:] == text[:1] else text


def _line(token: Token) -> int:
    return (token.map or [0])[0] + 1
