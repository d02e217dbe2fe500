"""What a run needs: a task, enough devices, an experiment's name and a number of rounds."""

import ast
import os
import re
from collections.abc import Iterator

from .fleet import Fleet, Problem
from .report import listed, shown
from .values import whole

MOST_FILES, MOST_MIB = 1000, 64  # of a task's folder
HIDDEN = {"flowerbed", "torch", "numpy"}
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
    """The task is there, is Python, and has the four names; a folder is one that can be sent."""
    from flowerbed.trainer.task import MAIN

    verdicts: dict[str, str | None] = {}
    for host in fleet.hosts:
        path = str(host.values.get("fl_task") or "")
        if path and path not in verdicts:
            whole = os.path.join(fleet.checkout, os.path.expanduser(path))
            if os.path.isdir(whole):
                verdicts[path] = _folder_problem(whole) or _task_problem(os.path.join(whole, MAIN))
            else:
                verdicts[path] = _task_problem(whole)
        if path and (text := verdicts[path]):
            yield Problem(host.name, "fl_task", text)


def _folder_problem(path: str) -> str | None:
    from flowerbed.trainer.task import MAIN, UNSENT

    sizes: dict[str, int] = {}
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(UNSENT)]
        for name in folders + [name for name in names if not name.startswith(UNSENT)]:
            whole = os.path.join(folder, name)
            if os.path.islink(whole) and not os.path.isfile(whole):
                return (
                    f"is {shown(path)}, in which {shown(whole)} is a link to a folder, or to nothing: put the folder "
                    "itself there"
                )
            if name in names:
                if not os.path.isfile(whole):
                    return f"is {shown(path)}, in which {shown(whole)} is no regular file: remove it"
                sizes[whole] = os.path.getsize(whole)
        if len(sizes) > MOST_FILES:
            return f"is {shown(path)}, a folder of more than {MOST_FILES} files: give the folder of the task alone"
    if sum(sizes.values()) > MOST_MIB << 20:
        largest = max(sizes, key=sizes.__getitem__)
        return (
            f"is {shown(path)}, a folder of {sum(sizes.values()) >> 20} MiB, most of it in {shown(largest)}: a task, "
            f"which goes to every device, has at most {MOST_MIB} MiB. Data belongs in dataset_path or "
            "dataset_device_path"
        )
    if hiding := sorted({os.path.splitext(name)[0] for name in os.listdir(path)} & HIDDEN):
        return f"is {shown(path)}, in which {hiding[0]} would hide the package of that name: call it otherwise"
    helpers = sorted(name for name in sizes if name.endswith(".py") and name != os.path.join(path, MAIN))
    return next((text for text in (_parsed(whole)[1] for whole in helpers) if text), None)


def _parsed(path: str) -> tuple[ast.Module | None, str | None]:
    """Return a Python file's statements, or a sentence's end that says why there are none."""
    try:
        with open(path, "rb") as file:
            return ast.parse(file.read()), None
    except OSError as error:
        return None, f"is {shown(path)}, which cannot be read ({error.strerror}): give the path of a task"
    except (SyntaxError, ValueError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        return None, f"is {shown(path)}, which is not Python{line}: correct it"


def _task_problem(path: str) -> str | None:
    from flowerbed.trainer.task import NAMES

    module, text = _parsed(path)
    if module is None:
        return text
    names = set(_defined(module.body))
    missing = [name for name in NAMES if name not in names]
    if missing and "*" not in names:
        needed = listed(NAMES, limit=4)
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
