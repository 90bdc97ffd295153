"""Whether the server lives, and whether it wants requests: for load balancers and orchestrators.

Live means that the loop turns; a failing database doesn't make a restart useful. Ready means that requests are wanted:
the application has started, no drain has begun, and the application's own checks pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import orjson

from hypoll.concurrency.forks import keep_out
from hypoll.protocol.messages import FAILURES, Request, Response
from hypoll.web.naming import name_of
from hypoll.web.routing import RouteError, check_hook

MAX_CHECKS = 32
"""Checks an application may have."""

CHECK_TIME = 1.0
"""Seconds all checks of one question may take; those that don't get their turn have failed."""

REMEMBERED = 1.0
"""Seconds an answer is given again: however many ask, the checks run once in that time."""

MEDIA_TYPE = "application/health+json"

log = logging.getLogger("hypoll.error")

Check = Callable[[], object]


class Readiness(Enum):
    """Whether requests are wanted, and if not, why."""

    STARTING = "the application is starting"
    READY = "requests are welcome"
    DRAINING = "the server is stopping"


class Finding(NamedTuple):
    """What a check came to: `failure` is empty when it passed."""

    name: str
    failure: str
    seconds: float


class Health:
    """The state that the two questions are answered from.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.readiness = Readiness.STARTING
        self._clock = clock
        self._checks: list[tuple[str, Check]] = []
        self._findings: list[Finding] = []
        self._valid_until = float("-inf")
        self._failing: set[str] = set()

    def add_check(self, check: Check) -> None:
        """Ask `check()` whether the application wants requests: it does unless this returns False, or raises.

        It runs on the loop, at most once a second, and everybody waits for it: look at what is known, don't go and ask.
        Raises `ValueError` for one check too many, `hypoll.RouteError` for what can't be called so.
        """
        if check_hook("on_ready_check", check):
            raise RouteError(f"the on_ready_check hook {name_of(check)} must be a def: it is asked on the loop")
        if len(self._checks) >= MAX_CHECKS:
            raise ValueError(f"there are {MAX_CHECKS} readiness checks already: let one check several things")
        name = name_of(check)
        taken = sum(known == name or known.startswith(name + " ") for known, _ in self._checks)
        self._checks.append((f"{name} {taken + 1}" if taken else name, check))
        self._valid_until = float("-inf")

    def start(self) -> None:
        """Requests are accepted from now on."""
        self.readiness = Readiness.READY

    def drain(self) -> None:
        """No more requests are wanted, while those that come are still answered. There is no way back."""
        self.readiness = Readiness.DRAINING

    @property
    def ready(self) -> bool:
        """Whether requests are wanted. Runs the checks, unless that was done within the last second."""
        return self.readiness is Readiness.READY and not any(finding.failure for finding in self._find())

    def live(self, request: Request) -> Response:
        """Answer that the loop turns: 200 at all times."""
        return _answer(request, True, {"status": "pass"})

    def report(self, request: Request) -> Response:
        """Answer whether requests are wanted: 200, or 503 with the reason."""
        if self.readiness is not Readiness.READY:
            return _answer(request, False, {"status": "fail", "output": self.readiness.value})
        findings = self._find()
        passed = not any(finding.failure for finding in findings)
        document: dict[str, Any] = {"status": _status(passed)}
        if findings:
            document["checks"] = {finding.name: [_check_document(finding)] for finding in findings}
        return _answer(request, passed, document)

    def _find(self) -> list[Finding]:
        now = self._clock()
        if now >= self._valid_until:
            self._findings = self._run(now)
            self._valid_until = self._clock() + REMEMBERED
        return self._findings

    def _run(self, begin: float) -> list[Finding]:
        findings = []
        for name, check in self._checks:
            start = self._clock()
            if start - begin >= CHECK_TIME:
                findings.append(Finding(name, "not run: the checks before it took too long", 0.0))
                continue
            failure = self._try(name, check)
            findings.append(Finding(name, failure, self._clock() - start))
        return findings

    def _try(self, name: str, check: Check) -> str:
        """Run a check. Its failure goes to the log, once until it passes again; whoever asks learns its kind only."""
        raised: BaseException | None = None
        try:
            failure = "" if check() is not False else "failed"
        except FAILURES as error:
            keep_out(error)
            raised = error
            failure = f"failed: {type(error).__name__}"
        if failure and name not in self._failing:
            self._failing.add(name)
            log.warning("the readiness check %s fails: no requests are wanted", name, exc_info=raised)
        elif not failure and name in self._failing:
            self._failing.discard(name)
            log.info("the readiness check %s passes again", name)
        return failure


def _status(passed: bool) -> str:
    return "pass" if passed else "fail"


def _check_document(finding: Finding) -> dict[str, Any]:
    document = {"status": _status(not finding.failure), "observedValue": round(finding.seconds * 1000, 3)}
    document["observedUnit"] = "ms"
    if finding.failure:
        document["output"] = finding.failure
    return document


def _answer(request: Request, passed: bool, document: dict[str, Any]) -> Response:
    """The document (draft-inadarei-api-health-check-06), as plain JSON to who asks for that and not for the other."""
    accept = request.headers.get("accept", "")
    plain = "application/json" in accept and MEDIA_TYPE not in accept
    media_type = "application/json" if plain else MEDIA_TYPE
    return Response(orjson.dumps(document), 200 if passed else 503, {"Cache-Control": "no-store"}, media_type)
