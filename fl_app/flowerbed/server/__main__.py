"""Start the server of the stream link: python -m flowerbed.server server.json."""

import json
import logging
import os
import signal
import sys
from pathlib import Path

from ..parts import return_freed_memory
from . import control, ports


def main() -> None:
    """Serve devices and runs until a signal ends it."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m flowerbed.server server.json")
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    path = Path(sys.argv[1]).resolve()
    try:
        config = json.loads(path.read_text())
        address, socket_path, devices = config["address"], config["control"], config["devices"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path} cannot be used as the server's configuration: {error}")
    os.chdir(path.parent)
    problem = ports.problem(address)
    if problem:
        sys.exit(f"the server cannot listen on {address}: {problem}")

    from ..link.identity import FOLDER, IdentityError
    from ..link.stream.grid import StreamGrid  # a second of imports, and only needed now

    return_freed_memory()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        grid = StreamGrid(address, devices, path.parent / FOLDER)
    except IdentityError as error:
        sys.exit(f"the server has no identity to show: {error}")
    grid.start()
    logging.getLogger("flowerbed.server").info("the server listens on %s for %d devices", address, len(devices))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    control.serve(socket_path, grid)


if __name__ == "__main__":
    main()
