"""Take secrets out of a text: those that are known, and what looks like one.

What is known are values of variables and of this process's environment; what looks like one are private keys,
credentials in addresses, and values of what is named as a password or a token is.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

REMOVED = "[removed]"
SHORTEST = 4  # characters of a value that is looked for wherever it stands: a shorter one is in any text
PLAIN = {"true", "false", "none", "null", "auto"}  # no secret, and in any text

_WORDS = r"(?:pass(?:word|wd|phrase)?|secret|token|credentials?|api_?key|private_?key|access_?key|authorization|cookie)"
NAME = re.compile(rf"{_WORDS}$", re.IGNORECASE)

# A block whose end may be cut off; a beginning may be, too. Each pattern takes time in proportion to the text, which
# may be anybody's.
_KEYS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_END = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_OF_A_KEY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\\n")
_ADDRESS = re.compile(r"(?<=://)[^\s/@\"']+(?=@)")
# NAME=value, NAME: value, "NAME": "value", --NAME value
_NAMED = re.compile(
    rf"({_WORDS}(?:\\?[\"']?\s*[=:]\s*(?:(?:Bearer|Basic|Digest)\s+)?))"
    r"(\\?\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;&\"'})\]]+)",
    re.IGNORECASE,
)
_OPTION = re.compile(rf"(--(?:[\w-]{{0,40}}-)?{_WORDS}\s+)(\S+)", re.IGNORECASE)
_BEARER = re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9+/._~=-]{8,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}"
    r"|AKIA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
)


class Cleaner:
    """Takes `known` secrets, the values of the environment variables `named`, and what looks like one out of texts."""

    def __init__(self, known: Iterable[str], named: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for value in known:
            for part in {value.strip(), *(line.strip() for line in value.splitlines() if len(line.strip()) >= 16)}:
                if len(part) >= SHORTEST and part.lower() not in PLAIN:
                    forms |= {part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1],
                              urllib.parse.quote(part, safe=""), urllib.parse.quote(part)}  # fmt: skip
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None
        names = "|".join(map(re.escape, sorted(set(named))))
        self._variables = names and re.compile(rf"\b((?:{names})\\?[\"']?\s*[=:]\s*)(\\?\"[^\"]*\"|'[^']*'|[^\s,;]+)")

    def clean(self, text: str) -> str:
        """Return `text` without them."""
        text = _without_ends(_KEYS.sub(REMOVED, text))
        if self._known:
            text = self._known.sub(REMOVED, text)
        if self._variables:
            text = self._variables.sub(rf"\1{REMOVED}", text)
        for pattern in (_NAMED, _OPTION, _BEARER):
            text = pattern.sub(rf"\1{REMOVED}", text)
        return _SHAPES.sub(REMOVED, _ADDRESS.sub(REMOVED, text))


def _without_ends(text: str) -> str:
    """Return a text without what is left of a key whose beginning was cut off."""
    kept, start = [], 0
    for end in _END.finditer(text):
        first = end.start()
        while first > start and text[first - 1] in _OF_A_KEY:
            first -= 1
        if first > start and text[first - 1] != "\n":  # in the middle of a line, which is none of the key's
            first = text.find("\n", first, end.start()) + 1 or first
        kept += [text[start:first], REMOVED]
        start = end.end()
    return "".join([*kept, text[start:]])


def values(name: str, value: Any) -> Iterator[str]:
    """Yield the texts in a variable that are secret by its name, or by that of what they stand under in it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from values(name if NAME.search(name) else str(key), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from values(name, inner)
    elif isinstance(value, str) and NAME.search(name):
        yield value


def of_addresses(texts: Iterable[str]) -> Iterator[str]:
    """Yield the passwords in addresses such as a proxy's."""
    for text in texts:
        for found in _ADDRESS.findall(text):
            yield found
            yield from filter(None, [urllib.parse.unquote(found.partition(":")[2])])
