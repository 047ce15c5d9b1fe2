"""Documents say what is there: the tests that the table of failures names, the links, the commands."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import click
import pytest

from serve.cli import palate

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "helm" / "README.md", *(ROOT / "docs").glob("*.md")]
)
FAILURES = (ROOT / "docs" / "failures.md").read_text()
NAMED = re.compile(r"(\*chaos\* )?`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
COMMAND = re.compile(r"`(?:\.venv/bin/)?palate ((?:[a-z-]+ ?)+)")
ROWS = (
    "engine replica dies", "ingress replica dies", "Redis dies", "Redis is slow", "index is lost", "artifact is broken",
    "disk is full", "clock jumps", "Overload", "do not read", "hostile input", "Poisoning", "candidate breaks off",
    "keys are gone",
)  # fmt: skip


@cache
def is_slow_by_name(path: str) -> dict[str, bool]:
    """Map the tests of a file to whether they are slow."""
    tree = ast.parse((ROOT / path).read_text())
    return {
        node.name: any("slow" in ast.unparse(mark) for mark in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("row", ROWS)
def test_every_failure_is_shown_by_tests_that_exist(row: str) -> None:
    (line,) = [line for line in FAILURES.splitlines() if line.startswith("| **") and row in line.split("|")[1]]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == 5
    assert all(cells)
    named = NAMED.findall(cells[-1])
    assert named
    for chaos, path, test in named:
        assert test in is_slow_by_name(path), f"{path} has no {test}"
        assert bool(chaos) == is_slow_by_name(path)[test], f"{test} runs in the other target"
    assert len(named) == cells[-1].count("::")


def test_the_table_has_no_other_rows() -> None:
    assert sum(line.startswith("| **") for line in FAILURES.splitlines()) == len(ROWS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target, _ in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    for words in COMMAND.findall(document.read_text()):
        command: click.Command = palate
        with click.Context(palate) as context:
            for word in words.split():
                if not isinstance(command, click.Group):
                    break
                found = command.get_command(context, word)
                assert found is not None, f"{document.name} names `palate {words}`"
                command = found
