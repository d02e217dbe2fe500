"""How many processors this process has: those that it may run on, or fewer where a control group limits their time."""

import os


def count(proc="/proc/self"):
    """Return how many threads can work at once here, at least 1; `proc` is where the kernel describes the process.

    More threads than that would only stop one another: a group that has used up its time waits with all of them.
    """
    quotas = [_quota(folder) for folder in _groups(proc)]
    return max(1, int(min([len(os.sched_getaffinity(0))] + quotas)))


def _groups(proc):
    """Return the folders of the control groups of the process that hold for processors, its own and those above it."""
    try:
        with open(os.path.join(proc, "cgroup")) as file:
            own = {
                name: path for _, names, path in (line.rstrip("\n").split(":", 2) for line in file)
                for name in names.split(",")
            }  # fmt: skip
        with open(os.path.join(proc, "mountinfo")) as file:
            mounts = [line.split(" - ") for line in file]
    except (OSError, ValueError):
        return []
    limits = []
    for where, what in mounts:
        root, point = where.split()[3:5]
        kind, options = what.split()[0], what.split()[-1].split(",")
        name = {"cgroup": "cpu", "cgroup2": ""}.get(kind)  # version 1 has a tree for each controller, 2 has one
        if name not in own or (name and name not in options):
            continue
        inside = os.path.relpath(own[name], root)  # a container may see the tree from its own group on
        parts = [] if inside.startswith("..") else inside.split("/")
        limits += [os.path.join(point, *parts[:depth]) for depth in range(len(parts) + 1)]
    return limits


def _quota(folder):
    """Return how many processors' time a control group has; infinity where it has no limit."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            words = []
            for name in names:
                with open(os.path.join(folder, name)) as file:
                    words += file.read().split()
            quota, period = words
            if int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue  # the other version's, or "max"
    return float("inf")
