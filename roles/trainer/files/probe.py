"""What an image has, asked by its own Python: ends with what is wrong with it, or prints a JSON object."""

import json
import platform
import sys
import warnings

if sys.version_info < (3, 6):
    sys.exit("has Python %d.%d, and a trainer needs 3.6 or newer" % sys.version_info[:2])
try:
    import numpy
    import torch
except (ImportError, OSError) as error:
    sys.exit("cannot train: %s" % error)

torch.nn.Linear(1, 1)(torch.zeros(1, 1)).sum().backward()
has = {
    "python": platform.python_version(), "numpy": numpy.__version__, "torch": str(torch.__version__),
    "cuda": torch.version.cuda or "", "gpu": "", "why": "", "l4t": "",
}  # fmt: skip
for path in ("/etc/nv_tegra_release", "/etc/apt/sources.list.d/nvidia-l4t-apt-source.list"):
    try:
        with open(path) as file:
            has["l4t"] += file.read(2000)
    except OSError:
        continue
if torch.version.cuda:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    has["why"] = " ".join(str(warning.message) for warning in said)
    if there:
        try:
            if (torch.ones(2, device="cuda") + 1).sum().item() != 4:  # a kernel, not only a device
                raise RuntimeError("a CUDA kernel returns wrong numbers")
            has.update(gpu=torch.cuda.get_device_name(0), why="")
        except Exception as error:
            capability = "sm_%d%d" % torch.cuda.get_device_capability(0)
            has["why"] = "%s [%s; built for %s]" % (error, capability, ", ".join(torch.cuda.get_arch_list()))
print(json.dumps(has))
