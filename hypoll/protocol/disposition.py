"""Content-Disposition: the name that an answer is saved under (RFC 6266), whatever its characters (RFC 8187)."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

from hypoll.protocol.fields import exact_str

# What no file name has, or what would have it shown as another: separators, control characters, marks that turn the
# direction of writing (RFC 6266, 4.3 and 7; Unicode's annex 9).
_UNFIT = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# What recipients read differently in a quoted string: a quote and its escape, and what looks like percent-encoding
# (RFC 6266, appendix D). What looks like a separator becomes one in ASCII.
_AMBIGUOUS = re.compile(r'["\\%/]')

_ATTR_CHAR = "!#$&+-.^_`|~"
"""Beside letters and digits what stands for itself in an extended value (RFC 8187, 3.2.1)."""


def content_disposition(filename: str, *, inline: bool = False) -> str:
    """The value of a Content-Disposition field.

    Args:
        filename: the name, as people write it: the last segment of a path. What no name may have becomes `_`.
        inline: whether it is shown where it can be, and has the name when it is saved; else it is saved.

    Raises:
        TypeError: For a name that is no str.
        ValueError: For an empty one.
    """
    if not isinstance(filename, str):
        raise TypeError(f"a file's name is a str, not {filename!r:.80}")
    filename = _UNFIT.sub("_", exact_str(filename))
    if not filename.strip(" ."):
        raise ValueError(f"a file's name has something that can be read, unlike {filename!r}")
    kind = "inline" if inline else "attachment"
    plain = _AMBIGUOUS.sub("_", _in_ascii(filename))
    if not plain.strip(" ."):
        plain = "_"  # of dots or a blank that are one character elsewhere
    if plain == filename:
        return f'{kind}; filename="{plain}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe=_ATTR_CHAR)}"


def _in_ascii(text: str) -> str:
    """The text for recipients that know nothing else: letters without their accents, `_` for all other characters."""
    return "".join(map(_ascii_of, unicodedata.normalize("NFC", text)))


def _ascii_of(character: str) -> str:
    if character.isascii():
        return character
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return base or "_"
