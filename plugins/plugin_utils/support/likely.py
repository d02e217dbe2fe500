"""Which lines of what was collected most likely explain a failure: a ranking by what a line says and when."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[3] / "fl_app"))
from flowerbed import words

SHOWN = 3
LONGEST = 240  # characters of a line
SLACK = 120  # seconds by which a device's clock may differ

# What a line says, and how likely it is then a cause rather than a consequence
SIGNS = (
    (90, re.compile(r"out of memory|oom-kill|oom_reaper|\bMemoryError\b|cannot allocate memory|std::bad_alloc", re.I)),
    (90, re.compile(r"no space left on device|disk quota exceeded|read-only file system|i/o error, dev", re.I)),
    (85, re.compile(r"under-?voltage detected|over-?current change", re.I)),
    (80, re.compile(r"certificate (?:has )?expired|certificate_verify_failed", re.I)),
    (
        70,
        _ERROR := re.compile(r"^\W*(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt)(?:$|: )"),
    ),  # a traceback's last line
    (65, re.compile(r"terminated by SIG|exited: .*not expected|segmentation fault|core dumped", re.I)),
    (40, re.compile(r"\b(?:cannot|could not|refused|failed|fatal)\b", re.I)),
)
EVENTS = {"problem": 60, "explosion": 60}
NAMED = 5  # more, where the run's own sentence names the device
UNDATED = 30  # less, where a file does not say when

_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)')
_PREFIX = re.compile(r"^(?:\S*\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-]\d\d:?\d\d)?|\[[^\]]*\d\d:\d\d[^\]]*\])[ :]*")
_WHEN = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,]\d+)?(Z|[+-]\d\d:?\d\d)?")
_KERNEL = re.compile(r"^\[\w{3} (\w{3} +\d+ \d\d:\d\d:\d\d \d{4})\]")


class Collected(NamedTuple):
    """The texts of a host by name, and how many seconds its local time is ahead of UTC."""

    files: dict[str, str]
    utc_offset: int = 0


class Line(NamedTuple):
    """A line, where it stands, and how likely it explains the failure."""

    score: int
    when: float
    host: str
    file: str
    text: str


def lines(hosts: dict[str, Collected], sentence: str, since: float) -> list[Line]:
    """Return the most likely ones, the run's own sentence first; those from before `since` are of another failure."""
    found = [Line(100, 0, "the run", "its last sentence", words.clean(sentence, LONGEST))] if sentence else []
    candidates = [line for host, collected in hosts.items() for line in _of_host(host, collected, sentence, since)]
    seen = {_alike(line, hosts) for line in found}
    for line in sorted(candidates, key=lambda line: (-line.score, -line.when)):
        if len(found) < SHOWN and (alike := _alike(line, hosts)) not in seen and line.text not in sentence:
            seen.add(alike)
            found.append(line)
    return found


def _alike(line: Line, hosts: dict[str, Collected]) -> str:
    """Return what a line has in common with others that say the same of another host or at another time."""
    text = line.text
    for host in sorted(hosts, key=len, reverse=True):
        text = text.replace(host, "HOST")
    return re.sub(r"\d+", "0", text)


def _of_host(host: str, collected: Collected, sentence: str, since: float) -> Iterator[Line]:
    named = NAMED if re.search(rf"(?<![\w-]){re.escape(host)}(?![\w-])", sentence) else 0
    for file, text in collected.files.items():
        if file.endswith((".log", ".jsonl")):
            for score, when, said in _events(text) if file.endswith(".jsonl") else _log(text, collected.utc_offset):
                if when is None or when >= since - SLACK:
                    score += named - (UNDATED if when is None else 0)
                    yield Line(score, when or 0, host, file, words.clean(said, LONGEST))


def _events(text: str) -> Iterator[tuple[int, float | None, str]]:
    for line in text.splitlines():
        try:
            event = json.loads(line)
            kind, message, when = event["event"], str(event["message"]), float(event["time"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if kind in EVENTS:
            yield EVENTS[kind], when, message


def _log(text: str, utc_offset: int) -> Iterator[tuple[int, float | None, str]]:
    when, place = None, ""  # of a traceback
    for line in text.splitlines():
        line = line[:2000]
        when = _time(line, utc_offset) or when
        if frame := _FRAME.search(line):
            place = f" ({frame[1]}, line {frame[2]})"
            continue
        said = _PREFIX.sub("", line)
        for score, sign in SIGNS:
            if sign.search(said):
                yield score, when, said.strip() + (place if sign is _ERROR else "")
                break
        if not line.startswith(" "):
            place = ""


def _time(line: str, utc_offset: int) -> float | None:
    """Return when a line was written, if it says so: in UTC, with an offset, or in the host's local time."""
    try:
        if stamp := _WHEN.search(line[:80]):
            day, clock, zone = stamp.groups()
            there = timezone(timedelta(seconds=utc_offset))
            if zone:
                there = datetime.strptime(zone, "%z").tzinfo
            return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=there).timestamp()
        if stamp := _KERNEL.search(line[:80]):
            local = datetime.strptime(stamp[1], "%b %d %H:%M:%S %Y")
            return local.replace(tzinfo=timezone(timedelta(seconds=utc_offset))).timestamp()
    except (ValueError, OverflowError):
        pass
    return None
