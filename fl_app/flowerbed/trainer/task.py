"""Load a user's task, a file or a folder with task.py in it, and tell one task from another."""

import hashlib
import importlib
import importlib.util
import os
import sys

VARIABLE = "FLOWERBED_TASK"  # of the environment: where the task is
MODULE = "flowerbed_task"  # its name once it is imported
MAIN = "task.py"  # of a folder
UNSENT = (".", "__pycache__")  # the beginnings of names that are not placed on devices
NAMES = ("build_model", "load_data", "train", "evaluate")


class TaskError(ValueError):
    """The task cannot be used; the message is a sentence that says why."""


def load(path):
    """Import the task at `path`. Raises TaskError if it fails to import or lacks one of the four names.

    A folder is importable as a package and as scripts beside each other are: `from .net import Net` works in its
    task.py, and so does `from net import Net`.
    """
    folder, main = (path, os.path.join(path, MAIN)) if os.path.isdir(path) else (None, path)
    if not os.path.isfile(main):
        raise TaskError("the task file %s is not there" % main)
    os.environ[VARIABLE] = os.path.abspath(path)
    spawned = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spawned")
    if spawned not in sys.path:  # which a process that is spawned gets from this one
        sys.path.append(spawned)
    forget(path)
    if folder and os.path.abspath(folder) not in sys.path:
        sys.path.insert(0, os.path.abspath(folder))
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(
        MODULE, main, submodule_search_locations=[os.path.abspath(folder)] if folder else None
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise TaskError("the task file %s does not import: %s: %s" % (main, type(error).__name__, error)) from None
    missing = [name for name in NAMES if not callable(getattr(module, name, None))]
    if missing:
        raise TaskError("the task file %s lacks %s; a task has the functions %s"
                        % (main, " and ".join(missing), ", ".join(NAMES)))  # fmt: skip
    return module


def forget(path):
    """Have the modules of the task at `path` imported anew when they are next asked for."""
    inside = os.path.join(os.path.abspath(path), "")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name == MODULE or name.startswith(MODULE + ".") or file.startswith(inside):
            del sys.modules[name]


def files(path):
    """Return the files of a task by their names in it, sorted; without caches and hidden ones, which are not placed."""
    if not os.path.isdir(path):
        return [(os.path.basename(path), path)]
    placed = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(UNSENT)]
        for name in names:
            if not name.startswith(UNSENT):
                whole = os.path.join(folder, name)
                placed.append((os.path.relpath(whole, path).replace(os.sep, "/"), whole))
    return sorted(placed)


def task_hash(path):
    """Return 12 hex digits that change with the task or with Flowerbed's own code. Raises OSError."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sources = [(name, whole) for name, whole in files(package) if name.endswith(".py")]
    digest = hashlib.sha256()
    for name, source in files(path) + sources:
        with open(source, "rb") as file:
            content = hashlib.sha256(file.read()).digest()
        if os.path.isdir(path):
            digest.update(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
        digest.update(content)
    return digest.hexdigest()[:12]
