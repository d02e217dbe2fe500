"""The peak of this process's resident memory, as the kernel counts it."""

import resource


def peak_memory():
    """Return the peak resident memory in bytes, since the last reset where the kernel knows that."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory():
    """Start counting the peak anew. See clear_refs in proc(5)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # then the peak is the process's own, since its start
