"""The memory of this process: its peak, as the kernel counts it, and what it can still have. For Python 3.6, too."""

import resource


def peak_memory():
    """Return the peak resident memory in bytes, since the last reset where the kernel knows that."""
    status = _numbers("/proc/self/status")
    return status["VmHWM"] * 1024 if "VmHWM" in status else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory():
    """Start counting the peak anew. See clear_refs in proc(5)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # then the peak is the process's own, since its start


def left():
    """Return how many bytes this process can still have: of its machine and, if it is in one, of its container.

    Swap counts. None for what is not known, or without a limit.
    """
    machine = _numbers("/proc/meminfo")
    if "MemAvailable" not in machine:
        return None, None
    swap = machine.get("SwapFree", 0) * 1024
    container = _container("/sys/fs/cgroup/memory.%s", "max", "current", "inactive_file")
    if container is None:
        container = _container(
            "/sys/fs/cgroup/memory/memory.%s", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"
        )
    machine = machine["MemAvailable"] * 1024 + swap
    return machine, None if container is None or container > machine else container + swap


def _container(path, limit, used, cache):
    """Return what a control group has left; None if there is no such file here, or no limit in it."""
    try:
        most, now = [int(_text(path % name)) for name in (limit, used)]
        return max(0, most - now + _numbers(path % "stat").get(cache, 0))
    except (OSError, ValueError):
        return None


def _text(path):
    with open(path) as file:
        return file.read()


def _numbers(path):
    """Return the first number after each name in a file such as /proc/meminfo; {} if it cannot be read."""
    try:
        lines = [line.replace(":", " ").split() for line in _text(path).splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
