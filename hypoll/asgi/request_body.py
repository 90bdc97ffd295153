"""A request's body on its way to `receive`."""

from __future__ import annotations

from collections.abc import Callable

from hypoll.server.request_body import RequestBody


class ReceivedBody(RequestBody):
    """The pieces of a body that comes while its application runs.

    Args:
        demand: see `RequestBody`.
        wake: called when something has come, or nothing will.
    """

    def __init__(self, demand: Callable[[], object], wake: Callable[[], object]) -> None:
        super().__init__(demand)
        self._wake = wake

    def _wake_reader(self) -> None:
        self.waits_for_piece = False
        self._wake()

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing behind what was taken."""
        return self.ended and not self._pieces and self._error is None

    @property
    def is_cut(self) -> bool:
        """Whether the rest will never come."""
        return self._error is not None and not self._pieces

    def take(self) -> bytes | None:
        """The next piece; b"": none is here; None: that was all. Nothing is taken before it is asked for."""
        self.begun = True
        return self._take()
