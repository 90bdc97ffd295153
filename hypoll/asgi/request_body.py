"""A request's body on its way to `receive`."""

from __future__ import annotations

from collections.abc import Callable

from hypoll.intake import Intake


class ReceivedBody(Intake):
    """The pieces of a body that comes while its application runs.

    demand: see `Intake`. wake: called when something has come, or nothing will.
    """

    def __init__(self, demand: Callable[[], object], wake: Callable[[], object]) -> None:
        super().__init__(demand)
        self._wake = wake

    def _feed(self) -> None:
        self.hungry = False
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
