"""Command lines of hypoll that end by themselves, without an interpreter's start for each."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PATIENCE = 30.0

FORKING = """
import json, os, sys
from hypoll.cli import main

for line in sys.stdin:
    directory, arguments, variables, *output = json.loads(line)
    pid = os.fork()
    if pid:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    for number, name in enumerate(output, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[0] = directory
    sys.argv[1:] = arguments
    sys.exit(main(prog_name="hypoll"))
"""


class Commands:
    """A process that has imported hypoll, and runs each command in a fork of its own.

    That is `python -m hypoll` but for the interpreter's start, which takes ten times as long: what is of that, its
    options and what it finds in the directory, wants a process of its own.
    """

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._output = [str(Path(self._directory.name, name)) for name in ("stdout", "stderr")]
        self._forking = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        self._forking.communicate()
        self._directory.cleanup()

    def run(
        self, directory: Path, arguments: list[str], variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run `hypoll` with arguments in a directory and an environment, to its end."""
        stdin, stdout = self._forking.stdin, self._forking.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([str(directory), arguments, dict(variables), *self._output]) + "\n")
        stdin.flush()
        if not select.select([stdout], [], [], PATIENCE)[0]:
            os.killpg(self._forking.pid, signal.SIGKILL)
            raise AssertionError(f"hypoll {arguments} doesn't end")
        code = int(stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(Path(name).read_text() for name in self._output))


@cache
def _shared() -> Commands:
    commands = Commands()
    atexit.register(commands.close)
    return commands


def run_command(
    directory: Path, arguments: list[str], variables: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run `hypoll` with arguments in a directory and an environment, to its end: see `Commands`."""
    return _shared().run(directory, arguments, variables)
