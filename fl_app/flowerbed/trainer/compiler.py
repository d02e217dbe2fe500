"""Keeps torch's compiler out of a trainer whose task does not use it: 71 MB, and half of the seconds of a start.

torch.optim imports torch._dynamo for two functions that do nothing outside of compiled code
(torch/optim/optimizer.py, torch/_compile.py).
"""

import importlib.util
import sys
import types

NAME = "torch._dynamo"


class Compiler(types.ModuleType):
    """Stands in for torch._dynamo until something else of it is wanted, which imports it."""

    @staticmethod
    def disable(fn, *args, **kwargs):
        """Return the function, which nothing compiles."""
        return fn

    @staticmethod
    def graph_break(*args, **kwargs):
        """Do nothing: no graph is traced."""

    def __getattr__(self, name):
        # Whoever looks at all modules asks for names with underscores; to import a module within asks for __path__.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(importlib.import_module(NAME), name)


def stand_in():
    """Let what imports torch._dynamo get the stand-in, where torch has one and has not imported it yet."""
    if NAME not in sys.modules and importlib.util.find_spec(NAME):
        sys.modules[NAME] = Compiler(NAME)
