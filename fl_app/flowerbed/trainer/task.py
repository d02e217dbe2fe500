"""Load a user's task, and tell one task from another."""

import hashlib
import importlib.util
import os
import sys

VARIABLE = "FLOWERBED_TASK"  # of the environment: where the task file is
NAMES = ("build_model", "load_data", "train", "evaluate")


class TaskError(ValueError):
    """The task file cannot be used; the message is a sentence that says why."""


def load(path):
    """Import the task file at `path`. Raises TaskError if it fails to import or lacks one of the four names."""
    if not os.path.isfile(path):
        raise TaskError("the task file %s is not there" % path)
    os.environ[VARIABLE] = os.path.abspath(path)
    spawned = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spawned")
    if spawned not in sys.path:  # which a process that is spawned gets from this one
        sys.path.append(spawned)
    spec = importlib.util.spec_from_file_location("flowerbed_task", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["flowerbed_task"] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise TaskError("the task file %s does not import: %s: %s" % (path, type(error).__name__, error)) from None
    missing = [name for name in NAMES if not callable(getattr(module, name, None))]
    if missing:
        raise TaskError("the task file %s lacks %s; a task has the functions %s"
                        % (path, " and ".join(missing), ", ".join(NAMES)))  # fmt: skip
    return module


def task_hash(path):
    """Return 12 hex digits that change with the task file or with Flowerbed's own code."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sources = sorted(
        os.path.relpath(os.path.join(folder, name), package)
        for folder, _, names in os.walk(package)
        for name in names
        if name.endswith(".py")
    )
    digest = hashlib.sha256()
    for source in [os.path.abspath(path)] + [os.path.join(package, source) for source in sources]:
        with open(source, "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:12]
