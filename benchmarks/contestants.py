"""Who is measured, as data: a row more in `CONTESTANTS` is all that another measurement needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FLOOR = HERE / "floor"

PYTHON = "{python}"
"""Stands in a command for the interpreter to be measured."""


WORKER = "hypoll.gunicorn_worker.Worker"


def hypoll(app: str, *options: str, module: str = "hypoll") -> tuple[str, ...]:
    """The command that serves an application, of `benchmarks.app` unless it names its module, on a free port."""
    where = app if ":" in app else f"benchmarks.app:{app}"
    return (PYTHON, "-m", module, where, "--bind", "127.0.0.1:0", *options)


def gunicorn(app: str, *options: str) -> tuple[str, ...]:
    """The command that serves an application by one gunicorn worker on a free port."""
    return (PYTHON, "-m", "gunicorn", app, "--bind", "127.0.0.1:0", "--no-control-socket", *options)


LOG = "{log}"
"""Stands in a command for a file that lasts as long as the server."""

ACCESS_LOG = ("--access-log", "json", "--access-log-file", LOG)


@dataclass(frozen=True)
class Contestant:
    """A server and the requests it gets.

    command: starts the server, which must print its URL, `http://127.0.0.1:PORT`.
    path: the target that is asked for.
    script: a wrk script beside this file.
    connections: of the client, when other than asked for.
    base: the key of the contestant that its CPU is compared with.
    limit: the most its CPU a request may be, as a multiple of the base's.
    threads: several threads share the processor. That they wait for each other says nothing of the machine.
    """

    key: str
    title: str
    command: tuple[str, ...]
    path: str
    script: str | None = None
    connections: int | None = None
    base: str = "floor"
    limit: float | None = None
    threads: bool = False


CONTESTANTS = (
    Contestant("floor", "bare epoll in C", (str(FLOOR),), "/json"),
    Contestant("floor-level", "bare epoll in C, level-triggered", (str(FLOOR), "level"), "/json"),
    Contestant("inline", "JSON", hypoll("hello"), "/json", limit=1.45),
    Contestant(
        "access-log", "JSON, with an access log", hypoll("hello", *ACCESS_LOG), "/json", base="inline", limit=1.25
    ),
    Contestant(
        "logged",
        "JSON, with access log, metrics, ids",
        hypoll("hello", *ACCESS_LOG, "--metrics", "/metrics", "--request-id"),
        "/json",
        base="inline",
        limit=1.35,
    ),
    Contestant("threaded", "JSON, from a thread", hypoll("threads"), "/json", limit=1.7, threads=True),
    Contestant("async", "JSON, async on asyncio", hypoll("tasks", "--no-uvloop"), "/json", limit=2.1),
    Contestant("async-uvloop", "JSON, async on uvloop", hypoll("tasks"), "/json", limit=1.8),
    Contestant("level", "JSON, level-triggered", hypoll("hello", module="benchmarks.level"), "/json"),
    Contestant(
        "worker", "JSON, as a gunicorn worker", gunicorn("benchmarks.app:hello", "-k", WORKER), "/json", limit=1.52
    ),
    Contestant("wsgi", "JSON, from a WSGI application", hypoll("benchmarks.wsgi:app"), "/json", threads=True),
    Contestant(
        "gthread",
        "JSON, by gunicorn's gthread",
        gunicorn("benchmarks.wsgi:app", "--threads", "4"),
        "/json",
        threads=True,
    ),
    Contestant("text", "text", hypoll("hello"), "/"),
    Contestant("params", "path parameters", hypoll("shop"), "/users/4711/orders/spring"),
    Contestant("unique", "JSON, no two header sections alike", hypoll("hello"), "/json", "unique.lua"),
    Contestant("post", "JSON of 200 bytes posted", hypoll("shop"), "/orders", "post.lua"),
    Contestant("large", "8 MiB", hypoll("shop"), "/large", connections=8),
    Contestant(
        "large-level", "8 MiB, level-triggered", hypoll("shop", module="benchmarks.level"), "/large", connections=8
    ),
    Contestant("nginx", "file of 64 KiB, by nginx", (PYTHON, "-m", "benchmarks.files"), "/files/64k.bin"),
    Contestant("file", "file of 64 KiB", hypoll("benchmarks.files:routes"), "/files/64k.bin", base="nginx", limit=1.5),
)

BASELINE = CONTESTANTS[0]


def choose(keys: list[str]) -> list[Contestant]:
    """The contestants of these keys and their bases, in their own order; all if there are no keys. The floor always.

    Raises `KeyError`.
    """
    known = {contestant.key: contestant for contestant in CONTESTANTS}
    wanted = {BASELINE.key, *keys, *(known[key].base for key in keys)}
    return [contestant for contestant in CONTESTANTS if not keys or contestant.key in wanted]
