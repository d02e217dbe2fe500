"""The folder in which a task keeps what is to last: one for each experiment, on each device."""

import os
import re
import shutil
import tempfile

FOLDER = "state"
DEPLOYMENT = "deployment"  # for a task whose data is read at a deployment, before there is an experiment
MOST = 20  # experiments whose folders are kept; that of the one longest unused goes
_NAME = re.compile(r"[0-9A-Za-z-]{1,64}")


def folder(experiment):
    """Return the folder of an experiment, by its id ("": none yet), made and found fit to be written in.

    Raises OSError, or ValueError for what cannot be an id.
    """
    name = experiment or DEPLOYMENT
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("the experiment's id is none")
    path = os.path.join(os.path.abspath(FOLDER), name)
    if name == DEPLOYMENT:
        shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path, exist_ok=True)
    with tempfile.TemporaryFile(dir=path) as probe:  # a full disk, or one that was mounted to be read only
        probe.write(b"written")
    os.utime(path)
    _prune(name)
    return path


def _prune(used):
    """Remove the folders that hold nothing, and those that are too many."""
    others = [os.path.join(FOLDER, name) for name in os.listdir(FOLDER) if name != used and _NAME.fullmatch(name)]
    others = sorted((path for path in others if os.path.isdir(path)), key=os.path.getmtime, reverse=True)
    for place, path in enumerate(others):
        if not os.listdir(path):
            os.rmdir(path)
        elif place >= MOST - 1:
            shutil.rmtree(path, ignore_errors=True)
