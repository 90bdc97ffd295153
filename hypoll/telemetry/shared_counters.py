"""The directory in which processes count together: prometheus_client's multiprocess mode.

Each process counts in files of its own there, by kind of metric and process id, and whoever is asked adds them up. The
master makes the directory before it imports the application, as prometheus_client looks for it when a metric is made.

Laws:

- What a process has counted stays when it has ended: the master folds its files into one of each kind.
- Folding and reading exclude each other by a lock, so that nothing is counted twice or not at all. The master never
  waits for it: what it can't fold now, it folds when the next worker has ended.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import glob
import logging
import os
import shutil
import struct
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from hypoll.telemetry import history

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

MEMORY = "/dev/shm"  # noqa: S108 - the file system in memory of every Linux

LEFT_AFTER = 60.0
"""Seconds since the last change to a directory after which it may have been left behind."""

_PREFIX = "hypoll-metrics-"
_FOLDED = "ended"
_LOCK = "hypoll.lock"
_MARK = "made-by-hypoll"
_ENTRY_BYTES = 28
"""Bytes of an entry in a file of prometheus_client's, beside its key: a length, two doubles and padding."""

_LENGTH = struct.Struct("=i")

_VALUES = struct.Struct("=ddi")
"""The number and the time of an entry, and the length of the next one's key."""

ENTRIES_A_PIECE = 1500
"""Entries that `sum_up` reads in a row: half a millisecond's work."""

_Value = tuple[float, float]
"""A number, and when it was set."""

_COMBINE: dict[str, Callable[[_Value, _Value], _Value]] = {
    "gauge_min": min,
    "gauge_max": max,
    "gauge_mostrecent": lambda one, other: max(one, other, key=lambda value: value[1]),
}
"""What two processes together say, by kind of metric. Of all other kinds it is their sum."""

_DROPPED = ("gauge_live", "gauge_all")
"""Kinds of which an ended process leaves nothing: `all` has a series for each process, without bound."""

_made: dict[str, int] = {}
"""Directories that this process, or its parent, has made, and the descriptors that hold their locks."""

log = logging.getLogger("hypoll.error")


def prepare() -> None:
    """`set_up` if that can be: what can't be had is reported when the settings are checked."""
    with contextlib.suppress(OSError, ModuleNotFoundError):
        set_up()


def directory() -> str | None:
    """The directory in which processes count together, if they do."""
    return os.environ.get(VARIABLE)


def set_up() -> None:
    """Have the processes that are forked from now on count together; doing it twice does nothing.

    A directory that the user has named by PROMETHEUS_MULTIPROC_DIR is taken, and neither emptied nor removed.

    Raises:
        OSError: When there is no place for one, `ModuleNotFoundError` without prometheus_client.
    """
    from prometheus_client import values

    known = directory()
    if known in _made:
        return
    if known is None or os.path.exists(os.path.join(known, _MARK)):  # of the master that this one succeeds (USR2)
        os.environ[VARIABLE] = _make()
    else:
        os.makedirs(known, exist_ok=True)
    # It may have been imported before, as by a configuration file, and have found no directory then.
    if values.ValueClass is values.MutexValue:
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


def give_to(uid: int, gid: int) -> None:
    """Let workers that give up the master's user count in the directory it has made."""
    known = directory()
    if known in _made:
        os.chown(known, uid, gid)


def _make() -> str:
    """Make a directory, in memory where there is such, that is removed at this process's end. Raises `OSError`."""
    try:
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=MEMORY)
    except OSError:
        path = tempfile.mkdtemp(prefix=_PREFIX)
    # Locked by this process and those it forks, as long as one of them lives.
    _made[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(_made[path], fcntl.LOCK_EX)
    with open(os.path.join(path, _MARK), "xb"):
        pass
    atexit.register(_remove, path, os.getpid())
    _remove_left(os.path.dirname(path))
    return path


def _remove(path: str, master: int) -> None:
    """Remove a directory at the master's end; its children have its exit handlers, too."""
    if os.getpid() == master:
        shutil.rmtree(path, ignore_errors=True)


def _remove_left(place: str) -> None:
    """Remove what masters that were killed have left: this user's directories which nobody has locked any more.

    A name proves nothing: only what has the mark is removed.
    """
    for path in glob.glob(os.path.join(place, _PREFIX + "*")):
        with contextlib.suppress(OSError):  # another's, locked, or gone
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                # One that is new may be about to be locked.
                if status.st_uid == os.geteuid() and time.time() - status.st_mtime > LEFT_AFTER:
                    os.stat(_MARK, dir_fd=fd, follow_symlinks=False)
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(fd)


@contextlib.contextmanager
def files(path: str) -> Iterator[list[str]]:
    """The files in the directory, none of which is folded within the block. Raises `OSError`."""
    with _locked(path, fcntl.LOCK_SH):
        # One that another process is just making has no size yet.
        yield [name for name in sorted(glob.glob(os.path.join(glob.escape(path), "*.db"))) if _size(name)]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:  # gauges are removed without the lock
        return 0


def kind_and_process(path: str) -> tuple[str, int]:
    """What a file's name says: kind, as `counter` or `gauge_livesum`, and process id; 0: of no process alone."""
    kind, _, process = os.path.basename(path).removesuffix(".db").rpartition("_")
    return kind, int(process) if process.isdecimal() else 0


def on_exit(pid: int) -> None:
    """Take what a process that has ended has left: its gauges go, its counters are kept."""
    path = directory()
    if path is None:
        return
    from prometheus_client.multiprocess import mark_process_dead

    history.forget(path, pid)
    try:
        mark_process_dead(pid, path)  # type: ignore[no-untyped-call]
        fold(path)
    except BlockingIOError:
        pass  # somebody reads: they are read as they are
    except OSError as error:
        log.warning("counters of ended processes can't be folded: %s", error)


def fold(path: str) -> None:
    """Fold the files of processes that have ended, children of workers among them, into one of each kind.

    Args:
        path: the directory.

    Raises:
        BlockingIOError: While somebody reads it, `OSError`.
    """
    with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        ended: dict[str, list[str]] = defaultdict(list)
        for name in sorted(glob.glob(os.path.join(glob.escape(path), "*.db"))):
            kind, pid = kind_and_process(name)
            if pid and not _is_alive(pid):
                ended[kind].append(name)
        for kind, names in ended.items():
            if not kind.startswith(_DROPPED):
                _fold_kind(kind, names, os.path.join(path, f"{kind}_{_FOLDED}.db"))
            for name in names:
                os.unlink(name)


def _fold_kind(kind: str, paths: list[str], target: str) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    total = add_up(kind, [target, *paths])
    new = target + ".new"
    with open(new, "wb") as file:
        # All of it now: writing to a page the disk has no room for would end the master by SIGBUS (mmap(2)).
        os.posix_fallocate(file.fileno(), 0, 8 + sum(len(key) + _ENTRY_BYTES for key in total))
    folded = MmapedDict(new)  # type: ignore[no-untyped-call]
    for key, (number, stamp) in total.items():
        folded.write_value(key.decode(), number, stamp)  # type: ignore[no-untyped-call]
    folded.close()  # type: ignore[no-untyped-call]
    os.rename(new, target)


def add_up(kind: str, paths: Iterable[str]) -> dict[bytes, _Value]:
    """What files of a kind say together, by prometheus_client's keys."""
    combine = _COMBINE.get(kind, _add)
    total: dict[bytes, _Value] = {}
    for path in paths:
        for key, number, stamp in entries(path):
            total[key] = combine(total[key], (number, stamp)) if key in total else (number, stamp)
    return total


def sum_up(paths: Iterable[str], pause: Callable[[], object], sparse: bytes = b"\0") -> dict[bytes, float]:
    """The sums of what files of a kind say: `add_up` where the time of a number doesn't matter.

    Args:
        paths: the files.
        pause: called after each `ENTRIES_A_PIECE` numbers.
        sparse: how the keys begin whose zeros are left out.
    """
    total: dict[bytes, float] = {}
    get = total.get
    for path in paths:
        for index, (key, number, _) in enumerate(entries(path, sparse), 1):
            total[key] = get(key, 0.0) + number
            if not index % ENTRIES_A_PIECE:
                pause()
        pause()
    return total


def entries(path: str, sparse: bytes = b"\0") -> Iterator[tuple[bytes, float, float]]:
    """The keys, numbers and times in a file of prometheus_client's, read as it is at the moment.

    Nothing, or the beginning, where its process was killed while it made it. The layout is that of
    prometheus_client's `mmap_dict`: four bytes say how many are in use, and four are padding. Then come entries: the
    length of a key (4 bytes), the key, spaces that make both a multiple of eight, a number and a time (8 bytes each).
    sparse: how the keys begin whose zeros are left out: most buckets of most histograms are.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LENGTH.size)
            (used,) = _LENGTH.unpack(data)
            data += file.read(used - len(data))
        if used > len(data):
            raise ValueError("it is shorter than it says")
        data += bytes(_LENGTH.size)  # the last entry is followed by a length, too
        unpack, position = _VALUES.unpack_from, 8
        (length,) = _LENGTH.unpack_from(data, position)
        while position < used:
            begin, end = position + 4, position + 4 + length
            position = end + 8 - (length + 4) % 8
            if length <= 0 or position + 16 > used:
                raise ValueError("an entry is cut off")
            number, stamp, length = unpack(data, position)
            position += 16
            if number or not data.startswith(sparse, begin):
                yield data[begin:end], number, stamp
    except FileNotFoundError:  # a gauge of a process that has ended meanwhile
        return
    except (struct.error, ValueError) as error:
        log.warning("%s holds no counters: %s", path, error)


def _add(one: _Value, other: _Value) -> _Value:
    return one[0] + other[0], 0.0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def _locked(path: str, how: int) -> Iterator[None]:
    """Hold the lock of the directory. Raises `BlockingIOError`, if `how` says not to wait, and `OSError`."""
    fd = os.open(os.path.join(path, _LOCK), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
