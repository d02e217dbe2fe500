"""What a run needs: a task, enough devices, an experiment's name and a number of rounds."""

import ast
import os
import re
from collections.abc import Iterator

from .fleet import Fleet, Problem
from .report import listed, shown
from .values import whole

TASK_NAMES = ("build_model", "load_data", "train", "evaluate")
EXPERIMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module's statements define, '*' for a star import."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
            yield from (name.id for name in names if isinstance(name.ctx, ast.Store))
        else:  # if, try, with: what their branches define counts
            for block in ("body", "orelse", "finalbody"):
                yield from _defined(getattr(node, block, []))


def task(fleet: Fleet) -> Iterator[Problem]:
    """The task file is there, is Python, and has the four names."""
    verdicts: dict[str, str | None] = {}
    for host in fleet.hosts:
        path = str(host.values.get("fl_task") or "")
        if path and path not in verdicts:
            verdicts[path] = _task_problem(os.path.join(fleet.checkout, os.path.expanduser(path)))
        if path and (text := verdicts[path]):
            yield Problem(host.name, "fl_task", text)


def _task_problem(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            names = set(_defined(ast.parse(file.read()).body))
    except OSError as error:
        return f"is {shown(path)}, which cannot be read ({error.strerror}): give the path of a task file"
    except (SyntaxError, ValueError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"is {shown(path)}, which is not Python{line}: correct it"
    missing = [name for name in TASK_NAMES if name not in names]
    if missing and "*" not in names:
        needed = listed(TASK_NAMES, limit=4)
        return f"is {shown(path)}, which lacks {listed(missing, limit=4)}: a task has the functions {needed}"
    return None


def min_clients(fleet: Fleet) -> Iterator[Problem]:
    """A round asks for no more devices than there are."""
    for server in fleet.servers:
        needed = whole(server.values.get("fl_min_clients"))
        if fleet.devices and needed is not None and needed > len(fleet.devices):
            text = f"is {needed}, but the inventory has {len(fleet.devices)}: lower it or add devices"
            yield Problem(server.name, "fl_min_clients", text)


def experiment(fleet: Fleet) -> Iterator[Problem]:
    """The experiment's name can be a folder's."""
    named = [(None, "experiment", fleet.extra["experiment"])] if "experiment" in fleet.extra else []
    named += [(host.name, "fl_experiment", host.values.get("fl_experiment", "-")) for host in fleet.servers]
    for host, name, value in named:
        if not EXPERIMENT.fullmatch(str(value)):
            text = f"is {value!r}, but must be letters, digits, '.', '_' and '-', with no '.' in front"
            yield Problem(host, name, text)


def rounds(fleet: Fleet) -> Iterator[Problem]:
    """The number of rounds is a whole one."""
    value = fleet.extra.get("rounds", 1)
    if (whole(value) or 0) < 1:
        yield Problem(None, "rounds", f"is {value!r}, but must be a whole number of at least 1")
