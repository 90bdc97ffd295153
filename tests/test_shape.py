"""The sizes of functions and classes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "hypoll"

MOST_LINES, MOST_BRANCHES, MOST_METHODS = 45, 15, 35
STRAIGHT_WAY, STRAIGHT_LINES = "feed", 80
"""The one function that may be longer: the way of every head, as one page."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[list[str], Function]]:
    """Each function, with the lines of its file."""
    for path in SOURCES.rglob("*.py"):
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                yield lines, node


def lines_of_code(lines: list[str], function: Function) -> int:
    """Lines without blank ones, comments and the docstring."""
    docstring: range | tuple[()] = ()
    if ast.get_docstring(function) is not None:
        docstring = range(function.body[0].lineno, (function.body[0].end_lineno or 0) + 1)
    numbers = range(function.lineno, (function.end_lineno or 0) + 1)
    return sum(
        number not in docstring and bool(text := lines[number - 1].strip()) and text[0] != "#" for number in numbers
    )


def test_no_function_is_long_but_the_straight_way() -> None:
    long = {node.name: size for lines, node in functions() if (size := lines_of_code(lines, node)) > MOST_LINES}
    assert long.pop(STRAIGHT_WAY, 0) <= STRAIGHT_LINES
    assert not long


def test_no_function_branches_much_but_the_straight_way() -> None:
    limit = f"lint.mccabe.max-complexity={MOST_BRANCHES}"
    ruff = [sys.executable, "-m", "ruff", "check", "--ignore-noqa", "--select", "C901", "--config", limit]
    found = subprocess.run([*ruff, str(SOURCES)], capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    assert set(re.findall("C901 `([^`]+)`", found.stdout)) <= {STRAIGHT_WAY}


def test_a_connection_is_not_everything() -> None:
    (connection,) = (
        node
        for node in ast.walk(ast.parse((SOURCES / "server" / "connection.py").read_text()))
        if isinstance(node, ast.ClassDef) and node.name == "Connection"
    )
    assert sum(isinstance(node, Function) for node in connection.body) < MOST_METHODS
