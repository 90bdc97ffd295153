"""Forms that a client sends: urlencoded, and multipart/form-data (RFC 7578), which the library multipart takes apart.

Laws:

- All has a bound: how many parts, the head of one, a text, the whole. Beyond it the client gets 413; what is
  malformed is a 400.
- A file doesn't wait in memory beyond a bound, but in a temporary file without a name, and ends with its request.
- A part's name, filename and type are what the client says: a filename is no path.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from hypoll.protocol.errors import HTTPError
from hypoll.protocol.multidict import FormFields, Headers, TypedLookup, missing

PIECE_SIZE = 64 * 1024
"""Bytes read of a stored file at once."""

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"


class FormLimits(NamedTuple):
    """What a form may have: see `hypoll.Request.form`."""

    parts: int
    field_size: int
    part_header: int
    size: int | None
    memory: int


class Head(Protocol):
    """What a part begins with, as multipart has it."""

    name: str
    filename: str | None
    content_type: str | None
    headerlist: list[tuple[str, str]]


class TextHead(NamedTuple):
    """The head of a part that is a text by its form."""

    name: str
    filename: str | None = None
    content_type: str | None = None
    headerlist: list[tuple[str, str]] = []  # noqa: RUF012 - never changed


def load_multipart() -> Any:
    """The library. Raises `ModuleNotFoundError` that says what to install."""
    try:
        import multipart
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("forms need multipart: pip install 'multipart>=1.2'", name=error.name) from None
    if not hasattr(multipart, "PushMultipartParser"):  # python-multipart has had this name, too
        raise ModuleNotFoundError("the module multipart is another library's: pip install 'multipart>=1.2'")
    return multipart


class FormParser:
    """Takes a form apart as its body comes, into events: the head of a part, its content in pieces, None for its end.

    Args:
        content_type: the request's; "" goes with no body.
        limits: what the form may have.

    Raises:
        HTTPError: 415 for what is no form, 400 for a multipart form without a boundary.
    """

    def __init__(self, content_type: str, limits: FormLimits) -> None:
        self._limits = limits
        self._size = 0
        self._text = UrlencodedParser(limits)
        self._parser: Any = None
        self._field: Any = None
        self._kind = kind = content_type.partition(";")[0].strip().lower()
        if kind == MULTIPART:
            self._library = load_multipart()
            _, parameters = self._library.parse_options_header(content_type)
            boundary = parameters.get("boundary", "")
            self._parser = self._refusing(
                lambda: self._library.PushMultipartParser(
                    boundary, max_header_size=limits.part_header, max_segment_count=limits.parts
                )
            )
        elif kind and kind != URLENCODED:
            raise HTTPError(415, f"the body is no form, but {kind:.60}", {"Accept": f"{MULTIPART}, {URLENCODED}"})

    def feed(self, data: bytes) -> Iterator[Any]:
        """Give the events of a piece of the body. Raises `HTTPError` 400 and 413."""
        if not data:
            return  # the library would take it for the end
        self._size += len(data)
        if self._limits.size is not None and self._size > self._limits.size:
            raise HTTPError(413, f"the form is larger than {self._limits.size} bytes")
        if self._parser is None:
            if not self._kind:
                raise HTTPError(415, "the body has no Content-Type: it is no form")
            yield from _events_of(self._text.feed(data))
            return
        events = self._parser.parse(data)
        while (event := self._refusing(lambda: next(events, events))) is not events:
            self._check_field(event)
            yield event

    def finish(self) -> Iterator[Any]:
        """The body is whole: give what is left. Raises `HTTPError` 400 where the form isn't whole, and 413."""
        if self._parser is not None:
            self._refusing(self._parser.close)
            return
        yield from _events_of(self._text.finish())

    def _check_field(self, event: Any) -> None:
        """Hold a text to its bound. Raises `HTTPError` 413."""
        if event is None or isinstance(event, (bytes, bytearray)):
            field, limit = self._field, self._limits.field_size
            if field is not None and field.bytes_received > limit:
                raise HTTPError(413, f"the form field {field.name!r:.60} is larger than {limit} bytes")
        else:
            self._field = event if event.filename is None else None

    def _refusing(self, call: Callable[[], Any]) -> Any:
        """What a call of the library gives; its errors are answers."""
        try:
            return call()
        except self._library.ParserLimitReached as error:
            raise HTTPError(413, f"the form has too much: {error}") from None
        except self._library.MultipartError as error:
            raise HTTPError(400, f"the form is malformed: {error}") from None


def _events_of(fields: Iterable[tuple[str, bytes]]) -> Iterator[Any]:
    """The events of fields that are here."""
    for name, value in fields:
        yield TextHead(name)
        yield value
        yield None


class UrlencodedParser:
    """Takes an urlencoded form apart as its body comes. It keeps the field that isn't whole, and no other."""

    def __init__(self, limits: FormLimits) -> None:
        self._limits = limits
        # Each byte of a name, which is as the head of a part, and of a value may be encoded as three.
        self._most = 3 * (limits.part_header + limits.field_size)
        self._separators = 0
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The fields, name and value, that are whole with this piece. Raises `HTTPError` 400 and 413."""
        self._separators += data.count(b"&")
        if self._separators >= self._limits.parts:
            raise HTTPError(413, f"the form has more than {self._limits.parts} fields")
        whole, separator, rest = data.rpartition(b"&")
        if not separator:
            self._keep(data)
            return []
        first, separator, others = whole.partition(b"&")
        self._keep(first)
        fields = self._parse(bytes(self._rest) + separator + others)
        self._rest.clear()
        self._keep(rest)
        return fields

    def finish(self) -> list[tuple[str, bytes]]:
        """The last field. Raises as `feed` does."""
        return self._parse(bytes(self._rest))

    def _keep(self, data: bytes) -> None:
        """Keep a piece of a field, if that doesn't get too large. Raises `HTTPError` 413."""
        if len(self._rest) + len(data) > self._most:
            name = bytes((self._rest + data[:60])[:60]).partition(b"=")[0].decode("utf-8", "replace")
            raise self._too_large(name)
        self._rest += data

    def _parse(self, text: bytes) -> list[tuple[str, bytes]]:
        try:
            pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise HTTPError(400, "the form is not UTF-8") from None
        fields = [(name, value.encode()) for name, value in pairs]
        for name, value in fields:
            if len(value) > self._limits.field_size:
                raise self._too_large(name)
        return fields

    def _too_large(self, name: str) -> HTTPError:
        return HTTPError(413, f"the form field {name!r:.60} is larger than {self._limits.field_size} bytes")


class PartHead:
    """What a client says of a part of a form.

    Attributes:
        name: of the field.
        filename: of the file, as the client gave it: to be shown, never a path to write to. None: it is a text.
        content_type: as the client gave it, without parameters; None: it gave none.
        headers: the part's own header fields.
    """

    def __init__(self, head: Head) -> None:
        self.name = head.name
        self.filename = head.filename
        self.content_type = head.content_type
        self.headers = Headers([(name.lower(), value) for name, value in head.headerlist])

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise HTTPError(400, f"the form field {self.name!r:.60} is not UTF-8") from None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class FormPart(PartHead):
    """A part of a form: a text, or a file. Iterating gives what is left of its content in pieces.

    Of a form that comes as a stream, reading raises what `request.stream` does, and `HTTPError` 400 and 413.
    """

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer only at the end; without a size all that is left."""
        raise NotImplementedError

    def text(self) -> str:
        """All that is left, as text. Raises `HTTPError` 400 for what isn't UTF-8."""
        return self._decode(self.read())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that is left to the file of a path, in place of what is there. Raises `OSError`."""
        with open(path, "wb") as file:
            for piece in self:
                file.write(piece)

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(PIECE_SIZE):
            yield piece


class AsyncFormPart(PartHead):
    """The same in a task: iterate with `async for`."""

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer only at the end; without a size all that is left."""
        raise NotImplementedError

    async def text(self) -> str:
        """All that is left, as text. Raises `HTTPError` 400 for what isn't UTF-8."""
        return self._decode(await self.read())

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError


class StoredPart(FormPart):
    """A part that is here, and is read from its beginning: a file in memory or, beyond a bound, on disk.

    Attributes:
        file: the file object, for libraries that take one.
        size: bytes.
    """

    def __init__(self, head: Head, memory: int) -> None:
        super().__init__(head)
        self.size = 0
        # To tempfile 0 is no bound at all.
        self.file: Any = io.BytesIO() if head.filename is None else tempfile.SpooledTemporaryFile(max(1, memory))  # noqa: SIM115

    def put(self, piece: bytes) -> None:
        """Take a piece of its content."""
        self.size += self.file.write(piece)

    def read(self, size: int = -1) -> bytes:
        """`FormPart.read`."""
        data: bytes = self.file.read(size)
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to the file of a path, whatever has been read before. Raises `OSError`."""
        self.file.seek(0)
        with open(path, "wb") as file:
            shutil.copyfileobj(self.file, file)

    def close(self) -> None:
        """Give back its memory, or its place on disk. Closing twice does nothing."""
        self.file.close()


class FormFiles(Mapping[str, StoredPart]):
    """The files of a form by their field's name: `[]` and `get` give the first of a name, `getall` each.

    `[]` of one that isn't there is a 400 to the client, as with the fields.
    """

    def __init__(self, files: list[StoredPart]) -> None:
        self._files = files

    def getall(self, name: str) -> list[StoredPart]:
        """Each file of a name; none: an empty list."""
        return [file for file in self._files if file.name == name]

    def __getitem__(self, name: str) -> StoredPart:
        for file in self._files:
            if file.name == name:
                return file
        raise missing("file in the form field", name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(file.name for file in self._files))

    def __len__(self) -> int:
        return len({file.name for file in self._files})


class Form(TypedLookup):
    """A form that a client sent: `request.form()`.

    Its texts are asked for as `request.query` is: `[]`, `get`, `getall`, `in`. Iterating gives its parts in order.

    Attributes:
        fields: the texts by name.
        files: the files by name. They are closed when the request ends.
    """

    what = FormFields.what

    def __init__(self, parts: Iterable[StoredPart] = ()) -> None:
        self._parts = list(parts)
        self.fields = FormFields((part.name, part.text()) for part in self._parts if part.filename is None)
        self.files = FormFiles([part for part in self._parts if part.filename is not None])
        for part in self._parts:
            part.file.seek(0)

    def __getitem__(self, name: str) -> str:
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def _find(self, name: str) -> str | None:
        return self.fields.get(name)

    def _find_all(self, name: str) -> list[str]:
        return self.fields.getall(name)

    def __iter__(self) -> Iterator[FormPart]:
        return iter(self._parts)

    def __aiter__(self) -> AsyncIterator[AsyncFormPart]:
        raise TypeError("the form is here as a whole, since its route isn't one with stream=True: iterate with for")

    def read(self) -> Any:
        """The form as a whole, which it is. Of one that comes as a stream this reads, and stores, all that is left."""
        return self

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()


class FormStore:
    """Makes a `Form` of a form's events."""

    def __init__(self, limits: FormLimits) -> None:
        self._limits = limits
        self._parts: list[StoredPart] = []

    def put(self, event: Any) -> None:
        """Take an event. Raises `OSError` for a file that can't be stored."""
        if isinstance(event, (bytes, bytearray)):
            self._parts[-1].put(bytes(event))
        elif event is not None:
            self._parts.append(StoredPart(event, self._limits.memory))
        elif self._parts[-1].filename == "" and not self._parts[-1].size:
            self._parts.pop().close()  # what browsers send where no file was chosen
        else:
            self._parts[-1].file.seek(0)

    def form(self) -> Form:
        """The form. Raises `HTTPError` 400 for a text that isn't UTF-8."""
        return Form(self._parts)

    def close(self) -> None:
        """Give back what it has stored, of a form that failed."""
        for part in self._parts:
            part.close()


def store_form(body: bytes, content_type: str, limits: FormLimits) -> Form:
    """The form of a body that is here. Raises `HTTPError` 400, 413, 415, `OSError` for a file that can't be stored."""
    parser, store = FormParser(content_type, limits), FormStore(limits)
    try:
        for events in (parser.feed(body), parser.finish()):
            for event in events:
                store.put(event)
        return store.form()
    except BaseException:
        store.close()
        raise
