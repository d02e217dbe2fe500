"""What a task may change for a whole process, and what is put back before another experiment."""

import os
import sys
import warnings

import numpy as np


class Surroundings:
    """The process as it is before the first task: its environment, folder, module path, warnings and numpy's errors."""

    def __init__(self):
        self._environment = dict(os.environ)
        self._folder = os.getcwd()
        self._path = list(sys.path)
        self._filters = list(warnings.filters)
        self._errors = np.geterr()

    def restore(self):
        """Make the process as it was."""
        os.chdir(self._folder)
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)
        sys.path[:] = self._path
        warnings.resetwarnings()
        warnings.filters[:] = self._filters
        np.seterr(**self._errors)


def set_torch(torch, threads):
    """Set all of torch as a new process has it; on a GPU the same seed gives the same bits only like this."""
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_flush_denormal(False)
    torch.autograd.set_detect_anomaly(False)
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.deterministic, cudnn.benchmark = True, True, False
    if hasattr(torch, "use_deterministic_algorithms"):  # since torch 1.8
        torch.use_deterministic_algorithms(False)
    if hasattr(torch, "set_float32_matmul_precision"):  # since 1.12
        torch.set_float32_matmul_precision("highest")
    if hasattr(torch, "set_default_device"):  # since 2.0
        torch.set_default_device(None)
