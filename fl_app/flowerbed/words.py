"""Words for people. Those from outside (devices, their tasks, names of files) are made fit for a terminal and a log.

They may hold anything: terminal escapes, line breaks that forge a line of a log, megabytes. So they are cleaned where
they come in. Runs on a device's Python, too (3.6).
"""

import re
import unicodedata

LONGEST = 300  # characters of a sentence
MOST = 200  # entries of a list or an object
MOST_LINES = 12  # of a traceback
DEEPEST = 4

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Control and format characters (bidirectional ones reorder a line), half surrogates, line and paragraph separators
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}

_UNITS = ((86400, "day", "d"), (3600, "hour", "h"), (60, "minute", "min"))


def clean(value, longest=LONGEST):
    """Return `value` as one line of printable text, cut to `longest` characters; runs of what is not become a space."""
    text = _text(value)[: 20 * longest]  # escapes and blanks go; what is far beyond the end need not be looked at
    text = _ESCAPE.sub("", text)
    text = "".join(" " if unicodedata.category(letter) in _UNPRINTABLE else letter for letter in text)
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def clean_trace(lines):
    """Return the last lines of a traceback, cleaned, with their indents; none if `lines` is no list."""
    lines = [_text(line)[: 20 * LONGEST] for line in lines[-MOST_LINES:]] if isinstance(lines, list) else []
    return [" " * min(len(line) - len(line.lstrip(" ")), 8) + clean(line) for line in lines]


def _text(value):
    try:
        return value if isinstance(value, str) else str(value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        return "a %s that cannot be shown" % type(value).__name__


def clean_all(value, longest=LONGEST, most=MOST, deepest=DEEPEST):
    """Return a JSON value with every text in it cleaned, at most `most` entries a list or object, `deepest` levels."""
    if isinstance(value, str):
        return clean(value, longest)
    if isinstance(value, (list, tuple)):
        return [clean_all(item, longest, most, deepest - 1) for item in value[:most]] if deepest else []
    if isinstance(value, dict):
        items = list(value.items())[:most] if deepest else []
        return {clean(key, longest): clean_all(item, longest, most, deepest - 1) for key, item in items}
    return value


def duration(seconds, short=False):
    """Return how long `seconds` are in the largest unit of which there are two: "90 minutes", or `short` "90 min"."""
    length, name, sign = next((unit for unit in _UNITS if abs(seconds) >= 2 * unit[0]), (1, "second", "s"))
    number = "%.0f" % (seconds / length)
    return "%s %s" % (number, sign if short else name if abs(int(number)) == 1 else name + "s")
