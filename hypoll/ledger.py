"""Counters of several processes, added up by whoever asks.

Each process writes to a file of its own in a directory that all have, through memory it maps: counting is an addition
in memory, and what was counted outlives the process. One process alone needs no file.

Laws:

- A file is written by one process. It is published, by its name, when it is whole and locked (flock(2)).
- The lock goes with its process, however that ends: a file that can be locked is of the dead.
- Counters of the dead are kept, gauges are not. Their files are folded into one, which names them, before they are
  removed: whoever finds a file that it names leaves it out. So nothing is counted twice, or not at all.
- Asking waits for nobody: folding is left to the next when someone else is at it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import mmap
import os
import stat
import struct
import tempfile
import time
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import orjson

CELLS = 16 * 1024
"""Integers a process can count in."""

KEY_BYTES = 512 * 1024
"""Bytes for their names."""

FOLDED_NAMES = 256
"""Processes whose names are kept in the file of the dead, after their own files are gone."""

SWEPT_AFTER = 60.0
"""Seconds since the last change to a directory after which it may have been left behind."""

MEMORY = "/dev/shm"  # noqa: S108 - the file system in memory of every Linux

_PREFIX = "hypoll-counters-"

_directories: dict[str, int] = {}
"""The descriptors that hold the locks of directories this process has made."""

_MAGIC = b"hypoll 1"
_HEADER = struct.Struct("8sqqqq")
"""Magic, process id, start in nanoseconds since 1970, cells in use, bytes of names in use."""
_CELLS_WORD, _KEYS_WORD = 3, 4
_HEADER_CELLS = 8
_KEYS_AT = (_HEADER_CELLS + CELLS) * 8
_SIZE = _KEYS_AT + KEY_BYTES
_SUFFIX = ".cells"
_FOLDED = "folded"
_LOCK = "lock"
_MARK = "made-by-hypoll"

log = logging.getLogger("hypoll.error")

Key = tuple[str, ...]
"""What is counted, and its labels' values: `("requests", "GET", "/users/{id:int}", "200")`."""

Counts = dict[Key, list[int]]

Keys = list[tuple[Key, int, bool]]
"""Key, width and whether it is a gauge, in the order of the cells."""


class LedgerFullError(Exception):
    """There is no room for another key."""


class Account(NamedTuple):
    """What one process counted. `pid` is 0 for the dead ones together."""

    pid: int
    started: float
    """Seconds since 1970."""
    counters: Counts
    gauges: Counts


class Cells:
    """Integers by key, in memory of this process.

    values: the integers; whoever has added a key counts in `values[index]`.
    """

    def __init__(self) -> None:
        self.values: memoryview[int] | array[int] = array("q", bytes(8 * CELLS))
        self._used = 0
        self._keys: Keys = []
        self._key_bytes = 0

    def add(self, key: Key, width: int = 1, *, gauge: bool = False) -> int:
        """The index of the first of `width` new cells under this key. Raises `LedgerFullError`."""
        line = orjson.dumps([width, gauge, *key], option=orjson.OPT_APPEND_NEWLINE)
        if self._used + width > CELLS or self._key_bytes + len(line) > KEY_BYTES:
            raise LedgerFullError
        index = self._used
        self._keys.append((key, width, gauge))
        self._publish(line, index + width)
        return index

    def read(self, pid: int, started: float) -> Account:
        """What was counted."""
        return _account(pid, started, self._keys, self.values[: self._used].tolist())

    def _publish(self, line: bytes, used: int) -> None:
        self._key_bytes += len(line)
        self._used = used


class MappedCells(Cells):
    """Cells in a file that others read. Raises `OSError` when there is no room for the file."""

    def __init__(self, fd: int, pid: int, started: int) -> None:
        super().__init__()
        # All of it now: writing to a page the disk has no room for would end the process by SIGBUS (mmap(2)).
        os.posix_fallocate(fd, 0, _SIZE)
        self._map = mmap.mmap(fd, _SIZE)
        self._map[: _HEADER.size] = _HEADER.pack(_MAGIC, pid, started, 0, 0)
        self._words = memoryview(self._map)[:_KEYS_AT].cast("q")
        self.values = self._words[_HEADER_CELLS:]

    def _publish(self, line: bytes, used: int) -> None:
        # The numbers last, that of the keys at the very end: a reader meets no key that isn't whole or has no cells.
        at = _KEYS_AT + self._key_bytes
        self._map[at : at + len(line)] = line
        super()._publish(line, used)
        self._words[_CELLS_WORD] = used
        self._words[_KEYS_WORD] = self._key_bytes


def _account(pid: int, started: float, keys: Keys, values: list[int]) -> Account:
    account = Account(pid, started, {}, {})
    at = 0
    for key, width, gauge in keys:
        (account.gauges if gauge else account.counters)[key] = values[at : at + width]
        at += width
    return account


def read_cells(path: str, known: dict[str, tuple[int, Keys]] | None = None) -> Account:
    """What the process of this file has counted. Raises `OSError`, and `ValueError` for another kind of file.

    known: remembers the keys of a file, which only grow, by its path and their size.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        magic, pid, started, _, _ = _HEADER.unpack(mapped[: _HEADER.size].ljust(_HEADER.size))
        if len(mapped) != _SIZE or magic != _MAGIC:
            raise ValueError(f"{path} is no file of counters")
        with memoryview(mapped) as view, view[:_KEYS_AT].cast("q") as words:
            # In the other order than they are written: there are cells for every key that is seen.
            key_bytes = words[_KEYS_WORD]
            used = words[_CELLS_WORD]
            size, keys = (known or {}).get(path, (-1, []))
            if size != key_bytes:
                keys = _parse_keys(mapped[_KEYS_AT : _KEYS_AT + key_bytes])
                if known is not None:
                    known[path] = key_bytes, keys
            # Eight bytes at a time, as they are written.
            return _account(pid, started / 1e9, keys, words[_HEADER_CELLS : _HEADER_CELLS + used].tolist())


def _parse_keys(lines: bytes) -> Keys:
    keys = []
    for line in lines.splitlines():
        width, gauge, *key = orjson.loads(line)
        keys.append((tuple(key), width, gauge))
    return keys


def make_directory(uid: int = -1, gid: int = -1) -> str:
    """A directory for processes to count in, in memory where there is such; to be made before they are forked.

    uid, gid: whose it is to be, if the processes give up their own. Raises `OSError` when no place for it is found.

    Those that were left behind, as by a master that was killed, are removed.
    """
    try:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=MEMORY)
    except OSError:
        path = tempfile.mkdtemp(prefix=_PREFIX)
    with open(os.path.join(path, _MARK), "xb") as file:
        file.write(_MAGIC)
    # Locked by this process and those it forks, as long as one of them lives.
    _directories[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(_directories[path], fcntl.LOCK_EX)
    os.chown(path, uid, gid)
    _sweep(os.path.dirname(path))
    return path


def remove_directory(path: str) -> None:
    """Remove the directory, when the last process is gone."""
    fd = _directories.pop(path, None)
    if fd is not None:
        _remove(path, fd)
        os.close(fd)


def _sweep(place: str) -> None:
    """Remove directories that nobody has locked any more; one that is new may be about to be.

    A name proves nothing: only what has this module's mark, and is this user's, is removed.
    """
    for path in glob.glob(os.path.join(place, _PREFIX + "*")):
        with contextlib.suppress(OSError):  # another's, locked, or gone
            if time.time() - os.stat(path, follow_symlinks=False).st_mtime > SWEPT_AFTER:
                with _locked(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as directory:
                    if _is_ours(directory):
                        _remove(path, directory)


def _is_ours(directory: int) -> bool:
    """Whether this module has made an open directory, for this user. Raises `OSError`."""
    fd = os.open(_MARK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(fd)
        owned = status.st_uid == os.fstat(directory).st_uid == os.geteuid()
        return owned and stat.S_ISREG(status.st_mode) and os.read(fd, len(_MAGIC) + 1) == _MAGIC
    finally:
        os.close(fd)


def _remove(path: str, directory: int) -> None:
    """Remove the files that this module makes, the mark last, and the directory if nothing else is in it.

    directory: a descriptor of it. Who owns the directory may have put another thing, or a link, in its path.
    """
    with contextlib.suppress(OSError):
        names = os.listdir(directory)
        for name in (*(name for name in names if name != _MARK), *(name for name in names if name == _MARK)):
            if name.endswith(_SUFFIX) or name in (_FOLDED, _FOLDED + ".new", _LOCK, _MARK):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)
        if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(directory)):
            os.rmdir(path)


class Ledger:
    """The counters of this process, and those of all that share its directory.

    directory: made by `make_directory`; None: this process is alone.
    cells: what this process counts in.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        self._started = time.time_ns()
        self._name = f"{os.getpid()}-{self._started:x}{_SUFFIX}"
        self._file = -1
        self._known: dict[str, tuple[int, Keys]] = {}
        self.cells = Cells()
        if directory is not None:
            self._open(directory)
            self._fold(directory)

    def read(self) -> list[Account]:
        """What each living process has counted, this one first, and at last what all the dead have.

        After `close` this one may be among the dead.
        """
        own = self.cells.read(os.getpid(), self._started / 1e9)
        if self._directory is None:
            return [own]
        self._fold(self._directory)
        others = list(self._others(self._directory))
        if len(self._known) > len(others):
            self._known.clear()  # of files that another process has folded
        # After the others: a process that ends meanwhile is named in there, with all it has counted.
        names, dead = _read_folded(self._directory)
        living = [own] if self._name not in names else []
        for name, account, alive in others:
            if name in names:
                continue
            if alive:
                living.append(account)
            else:
                _add(dead, account.counters)
        return [*living, Account(0, 0.0, dead, {})]

    def close(self) -> None:
        """Be counted among the dead."""
        if self._file >= 0:
            # Said, as the mapping keeps a copy of the descriptor, and so the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = -1

    def _open(self, directory: str) -> None:
        hidden, path = os.path.join(directory, "." + self._name), os.path.join(directory, self._name)
        try:
            self._file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self.cells = MappedCells(self._file, os.getpid(), self._started)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(hidden, path)
        except OSError as error:
            log.warning("the counters of this process stay its own: %s: %s", directory, error.strerror)
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            self.cells = Cells()
            self.close()

    def _others(self, directory: str) -> Iterator[tuple[str, Account, bool]]:
        for name in _cell_files(directory):
            if name != self._name:
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError, ValueError):  # removed meanwhile, or nobody's
                    # First: what is dead doesn't count on, but what is alive may die.
                    alive = _is_alive(path)
                    yield name, read_cells(path, self._known), alive

    def _fold(self, directory: str) -> None:
        """Add up the files of the dead, unless another process is at it or there is no room."""
        try:
            with _locked(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CREAT):
                names, dead = _read_folded(directory)
                gone = [(name, account) for name, account, alive in self._others(directory) if not alive]
                for name, account in gone:
                    if name not in names:
                        names.append(name)
                        _add(dead, account.counters)
                if gone:
                    _write_folded(directory, names[-FOLDED_NAMES:], dead)
                for name, _ in gone:
                    path = os.path.join(directory, name)
                    os.unlink(path)
                    self._known.pop(path, None)
        except OSError:
            pass  # the files stay, and are read as they are


def _cell_files(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIX) and not name.startswith("."))
    except OSError:
        return []


def _is_alive(path: str) -> bool:
    try:
        with _locked(path, os.O_RDONLY, fcntl.LOCK_SH):
            return False
    except BlockingIOError:
        return True


@contextlib.contextmanager
def _locked(path: str, flags: int, how: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold the lock of a file, and give its descriptor. Raises `BlockingIOError` when another does, `OSError`."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def _add(total: Counts, counters: Counts) -> None:
    for key, values in counters.items():
        known = total.get(key)
        if known is None or len(known) != len(values):
            total[key] = list(values)
        else:
            total[key] = [one + other for one, other in zip(known, values, strict=True)]


def add_up(accounts: list[Account]) -> Counts:
    """The counters of several processes together."""
    total: Counts = {}
    for account in accounts:
        _add(total, account.counters)
    return total


def _read_folded(directory: str) -> tuple[list[str], Counts]:
    try:
        with open(os.path.join(directory, _FOLDED), "rb") as file:
            names, counters = orjson.loads(file.read())
    except OSError:
        return [], {}
    return names, {tuple(key): values for key, values in counters}


def _write_folded(directory: str, names: list[str], counters: Counts) -> None:
    path = os.path.join(directory, _FOLDED)
    with open(path + ".new", "wb") as file:
        file.write(orjson.dumps([names, list(counters.items())]))
    os.rename(path + ".new", path)
