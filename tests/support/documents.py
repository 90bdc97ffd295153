"""What the documents say of the code: the tables that are made from it, and the names that must exist in it.

`python -m tests.support.documents` writes the tables of docs/options.md and docs/api.md and shows each name that is not
there; its exit code is 1 when there is one. `scripts/docs` runs it.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
from gunicorn.config import KNOWN_SETTINGS

from hypoll import Request, Routes
from hypoll.cli import main_command
from hypoll.deploy.command_options import SHORT
from hypoll.option import Option, format_size
from hypoll.settings import Processes, groups, options, variable
from tests.support import api_page

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]

OF_CODE = ("ARCHITECTURE.md", "docs/internals/")
"""Where each word in backticks that begins with a capital is a name of code."""

OPTIONS = ROOT / "docs/options.md"
API = ROOT / "docs/api.md"
BEGIN = "<!-- made by scripts/docs from the code: change it there -->\n"
END = "<!-- the end of what is made -->\n"

# the table of options


def option_tables() -> str:
    """The options of the command, of its processes and of the server, as Markdown."""
    declared = {option.name for option in (*options(), *options(Processes))}
    own = [one for one in main_command().params if isinstance(one, click.Option) and one.name not in declared]
    parts = [
        _table("The command", [_row([*one.opts], _default_of(one), str(one.help)) for one in own if one.envvar]),
        _table("Processes", [_row_of(option) for option in options(Processes)]),
        *(_table(title, [_row_of(option) for option in members]) for title, members in groups().items()),
    ]
    return "\n".join(parts)


MADE = {OPTIONS: option_tables, API: api_page.page}
"""The documents that have tables made from the code, and what makes them."""


def with_tables(document: Path, text: str) -> str:
    """A document's text with the tables as they are to be, in place of those between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} lacks {BEGIN.strip()} or {END.strip()}")
    return f"{before}{begin}\n{MADE[document]()}\n{end}{after}"


def _table(title: str, rows: list[str]) -> str:
    return "\n".join([f"## {title}", "", "| option | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _row_of(option: Option) -> str:
    flag = "--" + option.name.replace("_", "-")
    flags = [flag, f"--no-{flag[2:]}"] if option.default is True else [flag]
    flags = [SHORT[option.name], *flags] if option.name in SHORT else flags
    choices = f" One of {', '.join(option.choices)}." if isinstance(option.default, str) and option.choices else ""
    return _row(flags, _default(option), option.help + choices)


def _row(flags: list[str], default: str, meaning: str) -> str:
    shown = ", ".join(f"`{flag}`" for flag in flags)
    cells = [re.sub(r"[*|]", r"\\\g<0>", cell) for cell in (shown, default, meaning)]
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _default(option: Option) -> str:
    """The default with its unit; nothing where there is none."""
    default = option.default
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ", ".join(default)
    if isinstance(default, str):
        return default
    if option.unit == "bytes":
        return re.sub(r"(?<=\d)(?=[A-Z])", " ", format_size(default))
    return f"{default:g} {option.unit}".strip()


def _default_of(one: click.Option) -> str:
    """The same of an option that only the command has."""
    return "off" if one.is_flag else str(one.default)


# the names of code

OF_USERS = {"app.js", "app.js.br", "app.js.gz", "app.py", "gunicorn.conf.py"}
"""Files that a user of hypoll has."""

OF_OTHER_SYSTEMS = {"select.kqueue"}
"""Names of the standard library that it hasn't on Linux."""

OF_OTHER_PROGRAMS = {"--init", "--stop-timeout"}
"""Options of `docker run`."""

SOURCES = ("hypoll", "benchmarks", "tests")
VARIABLES: dict[str, type] = {"request": Request, "routes": Routes}
"""What the documents call an object, and what it is one of."""

OTHERS = ("uvicorn", "Flask", "FastAPI")
"""Programs whose options and names stand in the first column of a table of that heading."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_PATH = re.compile(
    r"[\w.-]+(/[\w.-]+)*\.(py|c|lua|toml|txt|ya?ml|cfg|service|socket|md)|(scripts|tests|deploy)(/[\w-]+)+"
)


def missing_names(document: str) -> list[str]:
    """What a document names in backticks and isn't in the code: files, names, options; and variables anywhere."""
    text = (ROOT / document).read_text()
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    for other in OTHERS:
        table = re.compile(rf"(?m)^\| {other} \|.*\n(?:^\|.*\n)+")
        prose = table.sub(lambda found: re.sub(r"(?m)^\|(?:[^|\\]|\\.)*\|", "|", found[0]), prose)
    tokens = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)
    faults = [token for token in tokens if not _is_there(token)]
    if document.startswith(OF_CODE):
        words = [token for token in tokens if re.fullmatch(r"[A-Z]\w*", token)]
        faults += [word for word in words if word not in _code().known | _code().texts and not hasattr(builtins, word)]
    return faults + [name for name in re.findall(r"\bHYPOLL_[A-Z_]*[A-Z]\b", text) if name not in _variables()]


def count_names(document: str) -> int:
    """How many names of code a document has that can be looked for."""
    tokens = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", (ROOT / document).read_text())
    return sum(any(True for _ in _questions(token)) for token in tokens)


def _is_there(token: str) -> bool:
    return all(_questions(token))


def _questions(token: str) -> Iterator[bool]:
    """Whether each thing that the text between two backticks names is there; nothing for what is no name of code."""
    words = token.split()
    if words[0] not in ("docker", "git", "kubectl", "pip", "python", "systemctl", "uv"):
        yield from (word in _options() for word in re.findall(r"(?<!\S)--[a-z][a-z-]+", token))
    if _PATH.fullmatch(words[0]):
        yield _is_path(words[0])
        return
    name, parenthesis, _ = token.partition("(")
    if _DOTTED.fullmatch(name):
        yield _is_dotted(name)
    elif re.fullmatch(r"_[a-z]\w+|_[A-Z]\w+", name) or (parenthesis and re.fullmatch(r"[a-z_]\w*", name)):
        yield name in _code().known or hasattr(builtins, name) or bool(re.search(rf"\({name}\(|^{name}\(\d\)", token))


def _is_path(path: str) -> bool:
    if path in OF_USERS or (ROOT / path).exists() or (ROOT / "hypoll" / path).exists():
        return True
    return "/" not in path and any(found for source in SOURCES for found in (ROOT / source).rglob(path))


def _is_dotted(name: str) -> bool:
    """Whether a dotted name leads to something, from a class, a module or a variable; all others are no code."""
    if name in OF_USERS | OF_OTHER_SYSTEMS or name in _code().texts:
        return True
    first, *rest = name.split(".")
    members = _code().members
    if first in members:
        return rest[0] in members[first]
    if first in VARIABLES:
        return hasattr(VARIABLES[first], rest[0]) or rest[0] in members[VARIABLES[first].__name__]
    return _leads_somewhere(f"hypoll.{first}" if first in _code().modules else first, rest)


def _leads_somewhere(module: str, rest: list[str]) -> bool:
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return True
    for name in rest:
        if not hasattr(found, name):
            try:
                importlib.import_module(f"{found.__name__}.{name}")
            except (ImportError, AttributeError):
                return False
        found = getattr(found, name)
    return True


class Code(NamedTuple):
    """The names that the sources have: of them alone, since their syntax trees weigh too much to be kept."""

    modules: set[str]
    """hypoll's, by their last name."""

    known: set[str]
    """Every name that is defined or used, by the benchmarks, too."""

    texts: set[str]
    """The strings of hypoll: loggers and WSGI's variables have names with dots, too."""

    members: dict[str, set[str]]
    """What each class of hypoll defines, its bases' included: methods, class variables, attributes of `self`."""


@cache
def _code() -> Code:
    code = Code(set(), set(), set(), {})
    bases: dict[str, set[str]] = {}
    for path in (ROOT / "hypoll").rglob("*.py"):
        code.modules.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text())):
            code.known.update(_named(node))
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                code.texts.add(node.value)
            elif isinstance(node, ast.ClassDef):
                code.members.setdefault(node.name, set()).update(_defined(node))
                bases.setdefault(node.name, set()).update(base.id for base in node.bases if isinstance(base, ast.Name))
    for path in (ROOT / "benchmarks").glob("*.py"):  # not what is installed there
        code.known.update(name for node in ast.walk(ast.parse(path.read_text())) for name in _named(node))
    for name, members in code.members.items():
        waiting = list(bases[name])
        while waiting:
            base = waiting.pop()
            members |= code.members.get(base, set())
            waiting += bases.get(base, ())
    return code


def _named(node: ast.AST) -> tuple[str, ...]:
    """What a node defines or uses."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        return (node.attr,)
    return (node.name,) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else ()


def _defined(node: ast.ClassDef) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield inner.name
        elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            yield inner.attr


@cache
def _options() -> set[str]:
    """The options of hypoll, of gunicorn and of the scripts."""
    found = {name for one in main_command().params for name in (*one.opts, *one.secondary_opts)}
    found |= {name for setting in KNOWN_SETTINGS for name in setting.cli or ()}
    files = [*(ROOT / "scripts").iterdir(), *(ROOT / "benchmarks").glob("*.py"), ROOT / "hypoll/healthcheck.py"]
    for path in files:
        found |= set(re.findall(r"--[a-z][a-z-]+", path.read_text()))
    return found | OF_OTHER_PROGRAMS | {"--version", "--help"}


@cache
def _variables() -> set[str]:
    """The variables of the environment that hypoll reads."""
    names = {variable(option.name) for option in (*options(), *options(Processes))} | _code().texts
    return names | {variable(name) for name in ("app_dir", "log_level", "check")}


def main() -> int:
    """Write the tables and look for the names. 1: one is not there."""
    for path in MADE:
        path.write_text(with_tables(path, path.read_text()))
    faults = [f"{document}: {name} is not in the code" for document in DOCUMENTS for name in missing_names(document)]
    for fault in faults:
        click.echo(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
