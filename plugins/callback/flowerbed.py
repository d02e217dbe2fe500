"""Ansible's own output, with the rounds of a run while they happen. See DOCUMENTATION for how a task asks for it."""

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible import constants

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "plugin_utils"))
sys.path.insert(0, str(ROOT / "fl_app"))
import ansible_private  # noqa: E402

from flowerbed import metrics, words  # noqa: E402

DOCUMENTATION = """
    name: flowerbed
    type: stdout
    short_description: the default output, with the rounds of a run while they happen
    description:
      - While a task runs that has the variable flowerbed_progress_file, the path of a run's metrics.jsonl (a template
        is fine), each event that the run adds to this file is shown as it is written. The file need not exist yet.
      - "For example: a task with vars: {flowerbed_progress_file: '{{ runs }}/metrics.jsonl'}."
      - When the run has ended, a table shows the last round by device, and where the model and the metrics are.
      - No rounds are shown in check mode.
      - A play whose C(hosts) is an empty list is not shown.
      - A failure that several hosts share (but for their names in it) is shown once, with the names of the others.
    requirements:
      - chosen in ansible.cfg (stdout_callback)
    extends_documentation_fragment: [default_callback, result_format_callback]
"""

VARIABLE = "flowerbed_progress_file"
POLL_SECONDS = 0.1
NOTHING = "–"
LONGEST = 2000  # characters of a sentence that names every device

Event = dict[str, Any]
Line = tuple[str, str | None]  # text, colour


def number(value: Any, digits: int = 0, factor: float = 1) -> str:
    """Return a number times `factor` as text, a dash for what is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return NOTHING
    return f"{value * factor:.{digits}f}"


def metric(name: str, value: Any) -> str:
    """Return a metric as text: a share in per cent, of a list the least and the largest number."""
    if isinstance(value, list):
        numbers = [item for item in value if number(item) != NOTHING]
        return f"{metric(name, min(numbers))} to {metric(name, max(numbers))}" if numbers else NOTHING
    if number(value) == NOTHING:
        return NOTHING
    if metrics.is_share(name):
        return f"{number(value, 1, 100)} %"
    plain = name == "loss" and 1e-3 <= abs(value) < 1e4
    return number(value, 4) if plain or value == 0 else f"{value:.4g}"


def measured(event: Event, name: str, prefix: str = "") -> str:
    """Return a metric of an event as text."""
    return metric(name, metrics.of_event(event, prefix).get(name))


def spent(private: Any) -> str:
    """Return the ε of a round's event as text; without noise it has no bound."""
    value = private.get("epsilon") if isinstance(private, dict) else None
    return "∞" if value is None else number(value, 2)


def megabytes(value: Any) -> str:
    """Return bytes as megabytes, as text."""
    return number(value, 2, 1e-6)


def status(event: Event) -> str:
    """Return what became of a device in a round."""
    text = ": ".join(str(event[key]) for key in ("status", "reason") if event.get(key))
    return f"{text}; {event['heldout_reason']}" if event.get("heldout_reason") else text


def round_columns(leading: str, show: list[str]) -> list[tuple[str, int, str, str]]:
    """Return the columns of metrics in the table of rounds: heading, width, the metric's name, the event's prefix."""
    if not show:
        columns = [(leading, leading, ""), ("loss", "loss", "")] if leading != "loss" else [("loss", "loss", "")]
        columns += [(f"held-out {leading}", leading, "heldout_")]
    else:
        columns = [column for name in show for column in ((name, name, ""), (f"held-out {name}", name, "heldout_"))]
    return [(heading, max(len(heading), 8), name, prefix) for heading, name, prefix in columns]


Column = Callable[[Event], str]


def device_columns(leading: str, show: list[str], fitted: bool = False) -> dict[str, Column]:
    """Return the columns of the table of devices; where these are fitted to their speed, with their steps."""

    def of(name: str, prefix: str = "") -> Column:
        return lambda event: measured(event, name, prefix)

    names = show or (["loss", leading] if leading != "loss" else ["loss"])
    heldout = show or [leading]
    return {
        "device": lambda event: str(event.get("device", NOTHING)),
        "examples": lambda event: number(event.get("examples")),
        "weight": lambda event: number(event.get("weight"), 3),
        **({"steps": lambda event: number(event.get("steps"))} if fitted else {}),
        **{name: of(name) for name in names},
        **{"held-out" if not show else f"held-out {name}": of(name, "heldout_") for name in heldout},
        "s training": lambda event: number(event.get("seconds_train"), 2),
        "s transfer": lambda event: number(event.get("seconds_transfer"), 2),
        "MB down": lambda event: megabytes(event.get("bytes_down")),
        "MB up": lambda event: megabytes(event.get("bytes_up")),
        "Python": lambda event: str(event.get("python", NOTHING)),
        "torch": lambda event: str(event.get("torch", NOTHING)),
        "status": status,
    }


PATHS = {"model": "model/last.safetensors", "best model": "model/best.safetensors"}


def table(rows: Iterable[Event], columns: dict[str, Column]) -> list[str]:
    """Return device events as the lines of an aligned table, its heading first."""
    cells = [list(columns), *([column(row) for column in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            text.ljust(width) if place in (0, last) else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


class RunFormatter:
    """Turns a run's events, in their order, into lines to show."""

    def __init__(self) -> None:
        self._last_round: Any = None
        self._devices: list[Event] = []  # of the last round that has ended
        self._pending: list[Event] = []
        self._heading: list[tuple[str, int]] = []  # as it was shown last
        self._summed_up = False
        self._leading, self._show = "accuracy", []

    def lines(self, event: Event, file: Path) -> Iterator[Line]:
        """Yield the lines for one event of the metrics `file`, which may be an old one with a device's raw words."""
        event = words.clean_all(event, LONGEST)
        kind = event.get("event")
        if kind == "run-started":
            self._last_round = event.get("last_round")
            self._show = [str(name) for name in event.get("show") or []]
        elif kind == "device":
            self._pending.append(event)
        elif kind == "round":
            self._devices, self._pending = self._pending, []
            self._leading = str(event.get("metric", "accuracy"))
            columns = round_columns(self._leading, self._show)
            headings = [("round", 10), *[column[:2] for column in columns], ("seconds", 8), ("clients", 8)]
            headings += [("ε", 8)] * bool(event.get("privacy"))
            if headings != self._heading:
                self._heading = headings
                yield "", None
                yield "  ".join(name.rjust(width) for name, width in headings), None
            yield self._round(event, columns)
        elif kind in ("waiting", "initial", "memory", "strategy", "fleet", "privacy"):
            yield str(event.get("message", "")), None
        elif kind in ("problem", "explosion"):
            yield str(event.get("message", "")), constants.COLOR_WARN
        elif kind in ("run-ended", "task-ended"):
            if kind == "run-ended" and event.get("status") != "failed":  # why, is said by the task that fails then
                yield str(event.get("message", "")), constants.COLOR_OK
            yield from self._summary(file)

    def _round(self, event: Event, columns: list[tuple[str, int, str, str]]) -> Line:
        wanted, answered = event.get("clients_wanted", event.get("clients_asked")), event.get("clients_answered")
        of = f" of {number(self._last_round)}" if self._last_round is not None else ""
        cells = [
            (number(event.get("round")) + of, 10),
            *((measured(event, name, prefix), width) for _, width, name, prefix in columns),
            (number(event.get("seconds"), 2), 8),
            (f"{number(answered)}/{number(wanted)}", 8),
            *[(spent(private), 8) for private in [event.get("privacy")] if private],
        ]
        text = "  ".join(cell.rjust(width) for cell, width in cells)
        return text, constants.COLOR_WARN if answered != wanted else None

    def _summary(self, file: Path) -> Iterator[Line]:
        """Yield, once, the table of the last round, and the paths of what the run left beside its metrics."""
        if self._devices and not self._summed_up:
            self._summed_up = True
            fitted = any("steps" in event for event in self._devices)
            lines = table(self._devices, device_columns(self._leading, self._show, fitted))
            yield "", None
            for row, text in zip([{}, *self._devices], lines, strict=True):
                yield text, constants.COLOR_WARN if row.get("status", "ok") != "ok" else None
            yield "", None
            for name, path in PATHS.items():
                if (file.parent / path).exists():
                    yield f"{name}: {_shown(file.parent / path)}", None
            yield f"metrics: {_shown(file)}", None


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


class Follower(threading.Thread):
    """Hands each event that is added to a file, from now on, to `show`; until `stop`."""

    def __init__(self, file: Path, show: Callable[[Event], None]) -> None:
        super().__init__(daemon=True)
        self._file, self._show = file, show
        self._position = file.stat().st_size if file.exists() else 0
        self._rest = b""
        self._ended = threading.Event()

    def run(self) -> None:
        """Follow the file."""
        while not self._ended.wait(POLL_SECONDS):
            self._read()
        self._read()

    def stop(self) -> None:
        """Show what is there, and end."""
        self._ended.set()
        self.join()

    def _read(self) -> None:
        try:
            with open(self._file, "rb") as file:
                file.seek(self._position)
                added = file.read()
        except OSError:  # not there yet
            return
        self._position += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
                if isinstance(event, dict):
                    self._show(event)
            except Exception:  # a corrupt line must not end the show, nor break the playbook
                continue


class CallbackModule(ansible_private.Output):
    """Follows the metrics of the task that asks for it, and says once what fails alike on several hosts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "flowerbed"

    def __init__(self) -> None:
        super().__init__()
        self._following: str | None = None  # the task
        self._file = Path()
        self._formatter = RunFormatter()
        self._follower: Follower | None = None
        self._for_none = False  # is the play
        self._failures: dict[str, list[str]] = {}  # of the task that runs: its hosts by message

    # -- The rounds of a run ------------------------------------------------------------------------------------------

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Begin to follow, if the task asks for it."""
        super().v2_runner_on_start(host, task)
        if VARIABLE not in task.vars or task.check_mode or self._follower:
            return
        self.show_heading(task)
        self._file = Path(ansible_private.template_on(self._play, host, task, task.vars[VARIABLE]))
        self._following, self._formatter = ansible_private.identity(task), RunFormatter()
        self._follower = Follower(self._file, self._show)
        self._follower.start()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Show the end of what was followed."""
        self._finish(result)
        super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Show the end of what was followed, and a failure that is another than those of the hosts before."""
        self._finish(result)
        host = result._host.get_name()
        message = str(result._result.get("msg", "")).replace(host, "HOST")
        alike = self._failures.setdefault(message, [])
        alike.append(host)
        if len(alike) == 1 or not message or ignore_errors:
            super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Show the end of what was followed. A host that may be out of reach is told of by a later task."""
        self._finish(result)
        if not result._task.ignore_unreachable or self._display.verbosity:
            super().v2_runner_on_unreachable(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Show the end of what was followed."""
        self._finish(result)
        super().v2_runner_on_skipped(result)

    def _finish(self, result: Any) -> None:
        if self._follower and ansible_private.identity(result._task) == self._following:
            self._follower.stop()
            self._follower = None
            self._show({"event": "task-ended"})

    def _show(self, event: Event) -> None:
        for text, colour in self._formatter.lines(event, self._file):
            self._display.display(text, color=colour)
        sys.stdout.flush()  # a pipe would otherwise get it all at the end

    # -- What fails alike, when its task has ended --------------------------------------------------------------------

    def before_task(self) -> None:
        """Begin another task."""
        self._end_failures()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin another play; say nothing of one that is for no host, as what is only done where something is amiss."""
        self._end_failures()
        self._for_none = play.hosts == []
        if not self._for_none:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say that no host is one of those that a play is for."""
        if not self._for_none:
            super().v2_playbook_on_no_hosts_matched()

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Say that all hosts have failed."""
        self._end_failures()
        super().v2_playbook_on_no_hosts_remaining()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show the recap."""
        self._end_failures()
        super().v2_playbook_on_stats(stats)

    def _end_failures(self) -> None:
        for message, (first, *others) in self._failures.items():
            if others and message:
                text = f"fatal: [{', '.join(others)}]: FAILED! => as on {first}"
                self._display.display(text, color=constants.COLOR_ERROR)
        self._failures = {}
