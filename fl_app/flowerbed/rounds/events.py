"""metrics.jsonl: what happened in an experiment, one JSON object a line, whatever a crash left of the last one."""

import json
import math
import time
from pathlib import Path
from typing import Any


class Events:
    """The event file at `path`; it is made by the first event."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, *events: dict[str, Any]) -> None:
        """Append events, in one write. Raises OSError on a full disk and the like."""
        now = round(time.time(), 3)
        lines = "".join(json.dumps(_finite({"time": now, **event})) + "\n" for event in events)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(lines)

    def read(self) -> list[dict[str, Any]]:
        """Return the events that can be read, in order."""
        events = []
        for line in self._bytes().decode("utf-8", "replace").splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                events.append(event)
        return events

    def mend(self) -> None:
        """End a line that a crash cut short, so that the next event has one of its own."""
        data = self._bytes()
        if data and not data.endswith(b"\n"):
            with open(self.path, "ab") as file:
                file.write(b"\n")

    def _bytes(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""


def _finite(event: dict[str, Any]) -> dict[str, Any]:
    """JSON knows neither NaN nor infinity."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in event.items()
    }
