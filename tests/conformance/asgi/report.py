"""Results as tables: of one server with its failures, and of several side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.conformance.asgi.case import Level
from tests.conformance.asgi.run import Outcome, Result


def group_of(result: Result) -> str:
    return result.case.name.partition(":")[0]


def counts(results: Iterable[Result]) -> Counter[tuple[str, Level, Outcome]]:
    return Counter((group_of(result), result.case.level, result.outcome) for result in results)


def table(results: list[Result]) -> str:
    """Passes, failures and skips for each group, for each level."""
    counted = counts(results)
    lines = [f"{'':14}{'must':^24}{'should':^24}".rstrip(), f"{'group':14}" + f"{'pass':>8}{'fail':>8}{'skip':>8}" * 2]
    groups = list(dict.fromkeys(map(group_of, results)))
    for group in [*groups, ""]:
        row = [
            sum(counted[each, level, outcome] for each in ([group] if group else groups))
            for level in Level
            for outcome in Outcome
        ]
        lines.append(f"{group or 'all':14}" + "".join(f"{number:8}" for number in row))
    return "\n".join(lines)


def failures(results: list[Result]) -> str:
    """What fails, and why."""
    lines = []
    for level in Level:
        for result in results:
            if result.case.level is level and result.outcome is Outcome.FAIL:
                lines.append(f"{level.value}: {result.case.name} ({result.case.source})")
                lines.extend(f"    {reason}" for reason in result.reasons)
    return "\n".join(lines)


def cell(results: list[Result], level: Level, group: str = "") -> str:
    """Passes of those that weren't skipped."""
    counted = Counter(
        result.outcome for result in results if result.case.level is level and group in ("", group_of(result))
    )
    asked = counted[Outcome.PASS] + counted[Outcome.FAIL]
    return f"{counted[Outcome.PASS]} of {asked}" if asked else "-"


def side_by_side(servers: dict[str, list[Result]]) -> str:
    """A table in Markdown: a row for each group, a column for each server; must, then should."""
    groups = list(dict.fromkeys(group_of(result) for results in servers.values() for result in results))
    lines = ["| | " + " | ".join(servers) + " |", "| --- |" + " ---: |" * len(servers)]
    for level in Level:
        for group in [*groups, ""]:
            cells = [cell(results, level, group) for results in servers.values()]
            name = f"{level.value}: {group or 'all'}"
            lines.append("| " + " | ".join([f"**{name}**" if not group else name, *cells]) + " |")
    return "\n".join(lines)
