"""The Autobahn cases for WebSocket servers, by kosoku: `python -m tests.conformance.autobahn [CASE...]`, or 9.*.

Routes and an ASGI application get each of them. Exit code 1: a case failed, or did not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.gunicorn import Master

APPLICATIONS = {"routes": "benchmarks.app:echo", "asgi": "benchmarks.echo:app"}

LARGE = ("9.*",)
"""Cases that tests leave out: large messages, and thousands of small ones."""

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""Autobahn's outcomes of a case that isn't failed; a NON-STRICT one is late to find a fault, but finds it."""

PARALLEL = 2

PING_INTERVAL = 0
"""kosoku 0.1 takes a ping of the server's, which RFC 6455 (5.5.2) allows at any time, for the end of a case of
compressed messages: it failed after 5 s where the first came then, and passed after 25 s without. So servers send none.
"""


def run_cases(port: int, cases: Sequence[str], directory: Path, exclude: Sequence[str] = ()) -> dict[str, str]:
    """Run cases against a server; give the outcome of each that ran, by its id.

    Args:
        port: the server's, on 127.0.0.1.
        cases: ids, or globs of them; none: all.
        directory: where the reports go.
        exclude: what is left out of them.

    Raises:
        RuntimeError: When kosoku fails otherwise than by a case.
    """
    options = [word for flag, ids in (("-i", cases), ("-x", exclude)) for each in ids for word in (flag, each)]
    command = [str(Path(sys.executable).parent / "kosoku"), f"127.0.0.1:{port}", "-p", str(PARALLEL), *options]
    done = subprocess.run(
        [*command, "-o", str(directory)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    try:
        (found,) = json.loads((directory / "index.json").read_text()).values()
    except (OSError, ValueError) as error:
        raise RuntimeError(f"kosoku has failed: {done.stdout}") from error
    return {case: _verdict(outcome, directory) for case, outcome in found.items()}


def _verdict(outcome: dict[str, str], directory: Path) -> str:
    """OK and the like; of a case that failed also the reason."""
    for kind, reason in (("behavior", "result"), ("behaviorClose", "resultClose")):
        if outcome[kind] not in PASSED:
            report = json.loads((directory / outcome["reportfile"]).read_text())
            return f"{outcome[kind]} after {report['duration']} ms: {report[reason]}"
    return outcome["behavior"]


def failures(outcomes: dict[str, str]) -> dict[str, str]:
    """The cases that failed."""
    return {case: outcome for case, outcome in outcomes.items() if outcome not in PASSED}


def main() -> int:
    """Run cases, and print what came of them."""
    cases, status = sys.argv[1:] or LARGE, 0
    for name, application in APPLICATIONS.items():
        command = ["-m", "hypoll", application, "--access-log", "off", "--bind", "127.0.0.1:0"]
        command += ["--ws-ping-interval", str(PING_INTERVAL)]
        with tempfile.TemporaryDirectory() as directory, Master(Path(directory), command) as server:
            outcomes = run_cases(server.port, cases, Path(directory) / "reports")
        failed = failures(outcomes)
        print(f"{name}: {len(outcomes)} cases ran, {len(failed)} failed {failed or ''}", flush=True)  # noqa: T201
        status |= bool(failed) or not outcomes
    return status


if __name__ == "__main__":
    sys.exit(main())
