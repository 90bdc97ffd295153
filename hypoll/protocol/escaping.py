"""Text of others made fit for a line of a log."""

from __future__ import annotations


def escape(text: str) -> str:
    r"""The text with a backslash before quotes and backslashes; what isn't printable ASCII as `\xHH` or `\uHHHH`."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if " " <= character <= "~" else _code(character)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def printable(text: str) -> str:
    r"""The text with control characters, which a terminal may obey, and lone surrogates as `\xHH` or `\uHHHH`."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _code(character) for character in text)
