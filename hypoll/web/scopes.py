"""Which hooks stand before a path that no route has: those of the `Routes` that are mounted there."""

from __future__ import annotations

from hypoll.protocol.messages import HTTPError
from hypoll.web.hooks import Hooks, Scopes
from hypoll.web.routing import Parameter, decoded_segments, parse_path


class ScopeTree:
    """The hooks of a `Routes`, and of those mounted below it, by their prefixes."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self._mounted: list[tuple[list[str | Parameter], ScopeTree]] = []

    def mount(self, prefix: str, tree: ScopeTree) -> None:
        """Have the paths below a prefix in the scope of other routes, too."""
        self._mounted.append((parse_path(prefix), tree))

    def at(self, target: bytes) -> Scopes:
        """The hooks for a request-target, outermost first. One that isn't UTF-8 is in no scope but the outermost."""
        try:
            return self._at(decoded_segments(target.partition(b"?")[0])) if self._mounted else (self.hooks,)
        except HTTPError:
            return (self.hooks,)

    def _at(self, segments: list[str]) -> Scopes:
        """Of the prefixes that match, the longest counts, then the one with the most literals; of equals each does."""
        scopes: Scopes = (self.hooks,)
        matching = [each for each in self._mounted if _matches(each[0], segments)]
        best = max((_weight(prefix) for prefix, _ in matching), default=None)
        for prefix, tree in matching:
            if _weight(prefix) == best:
                scopes += tree._at(segments[len(prefix) :])
        return scopes


def _matches(prefix: list[str | Parameter], segments: list[str]) -> bool:
    return len(prefix) <= len(segments) and all(
        want.converter.pattern.fullmatch(segment) if isinstance(want, Parameter) else want == segment
        for want, segment in zip(prefix, segments, strict=False)
    )


def _weight(prefix: list[str | Parameter]) -> tuple[int, int]:
    return len(prefix), sum(isinstance(segment, str) for segment in prefix)
