"""Python imports this first in each process of a device. It halves the time Flower takes to start a ClientApp."""

import sys
import types

if any(argument.endswith("/flwr-clientapp") for argument in getattr(sys, "orig_argv", ())):
    # Flower imports the SuperNode's command along with the ClientApp's, and with it a database that only a SuperNode
    # has. The superlink link starts a ClientApp for every message.
    unused = types.ModuleType("flwr.supernode.cli.flower_supernode")
    unused.flower_supernode = None
    sys.modules[unused.__name__] = unused
