"""Forms as their bodies come, in routes declared `stream=True`: part by part, and each part in pieces.

Nothing is kept but the piece at hand: a part that is passed over is read away.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from hypoll.protocol.forms import AsyncFormPart, Form, FormLimits, FormParser, FormPart, FormStore, Head


class _End:
    """Stands for the end of a form."""


class _Events:
    """The events of a form, one by one, as its body comes."""

    def __init__(self, pieces: Iterable[bytes], parser: FormParser) -> None:
        self._pieces = iter(pieces)
        self._parser = parser
        self._here: Iterator[Any] = iter(())
        self._whole = False

    def next(self) -> Any:
        """The next event; `_End` behind the last. Raises `HTTPError`, and what the body's pieces raise."""
        while True:
            event = next(self._here, _End)
            if event is not _End or self._whole:
                return event
            piece = next(self._pieces, None)
            self._whole = piece is None
            self._here = self._parser.finish() if piece is None else self._parser.feed(piece)


class _AsyncEvents:
    """The same in a task."""

    def __init__(self, pieces: Any, parser: FormParser) -> None:
        self._pieces = aiter(pieces)
        self._parser = parser
        self._here: Iterator[Any] = iter(())
        self._whole = False

    async def next(self) -> Any:
        """See `_Events.next`."""
        while True:
            event = next(self._here, _End)
            if event is not _End or self._whole:
                return event
            piece = await anext(self._pieces, None)
            self._whole = piece is None
            self._here = self._parser.finish() if piece is None else self._parser.feed(piece)


class StreamedPart(FormPart):
    """A part whose content comes as it is read."""

    def __init__(self, head: Head, events: _Events) -> None:
        super().__init__(head)
        self._events = events
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """`FormPart.read`."""
        taken = io.BytesIO()
        while (size < 0 or taken.tell() < size) and (piece := self._next()):
            room = len(piece) if size < 0 else size - taken.tell()
            taken.write(piece[:room])
            self._rest = piece[room:]
        return taken.getvalue()

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._next():
            yield piece

    def _next(self) -> bytes:
        rest, self._rest = self._rest, b""
        if rest or self._ended:
            return rest
        event = self._events.next()
        self._ended = event is None
        return b"" if event is None else bytes(event)

    def skip(self) -> None:
        """Read the rest of it away."""
        while self._next():
            pass


class AsyncStreamedPart(AsyncFormPart):
    """The same in a task."""

    def __init__(self, head: Head, events: _AsyncEvents) -> None:
        super().__init__(head)
        self._events = events
        self._rest = b""
        self._ended = False

    async def read(self, size: int = -1) -> bytes:
        """`AsyncFormPart.read`."""
        taken = io.BytesIO()
        while (size < 0 or taken.tell() < size) and (piece := await self._next()):
            room = len(piece) if size < 0 else size - taken.tell()
            taken.write(piece[:room])
            self._rest = piece[room:]
        return taken.getvalue()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._next():
            yield piece

    async def _next(self) -> bytes:
        rest, self._rest = self._rest, b""
        if rest or self._ended:
            return rest
        event = await self._events.next()
        self._ended = event is None
        return b"" if event is None else bytes(event)

    async def skip(self) -> None:
        """Read the rest of it away."""
        while await self._next():
            pass


class _FormStream(Form):
    """What both kinds of streamed forms have.

    Args:
        keep: called with the form that `read` has stored, which is to be closed when the request ends.
    """

    def __init__(self, limits: FormLimits, keep: Callable[[Form], object]) -> None:
        self._limits = limits
        self._keep = keep

    def __getattr__(self, name: str) -> Any:
        """Raise `RuntimeError` for what is known of a whole form only."""
        if name in ("fields", "files", "_parts"):
            raise RuntimeError("the form comes as a stream: iterate over its parts, or read() it first")
        raise AttributeError(name)

    def close(self) -> None:
        """Nothing is kept."""


class FormStream(_FormStream):
    """A form in a threaded handler that takes it as it comes: iterate over its parts, or `read()` it."""

    def __init__(
        self, pieces: Iterable[bytes], parser: FormParser, limits: FormLimits, keep: Callable[[Form], object]
    ) -> None:
        super().__init__(limits, keep)
        self._events = _Events(pieces, parser)

    def __iter__(self) -> Iterator[FormPart]:
        while (head := self._events.next()) is not _End:
            part = StreamedPart(head, self._events)
            yield part
            part.skip()

    def read(self) -> Form:
        """Store all that is left, and give it. Raises as reading the parts does, and `OSError`."""
        store = FormStore(self._limits)
        try:
            while (event := self._events.next()) is not _End:
                store.put(event)
            form = store.form()
        except BaseException:
            store.close()
            raise
        self._keep(form)
        return form


class AsyncFormStream(_FormStream):
    """A form in an `async def` handler that takes it as it comes: iterate with `async for`, or await `read()`."""

    def __init__(self, pieces: Any, parser: FormParser, limits: FormLimits, keep: Callable[[Form], object]) -> None:
        super().__init__(limits, keep)
        self._events = _AsyncEvents(pieces, parser)

    def __iter__(self) -> Iterator[FormPart]:
        raise TypeError("the form comes as a stream, in a task: iterate with async for")

    async def __aiter__(self) -> AsyncIterator[AsyncFormPart]:
        while (head := await self._events.next()) is not _End:
            part = AsyncStreamedPart(head, self._events)
            yield part
            await part.skip()

    async def read(self) -> Form:
        """Store all that is left, and give it. Raises as reading the parts does, and `OSError`."""
        store = FormStore(self._limits)
        try:
            while (event := await self._events.next()) is not _End:
                store.put(event)
            form = store.form()
        except BaseException:
            store.close()
            raise
        self._keep(form)
        return form
