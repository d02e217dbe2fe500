"""Ask what runs on this host: python -m flowerbed.status trainer.json, or --server server.json.

Prints JSON. Exits 1 with a sentence when nothing answers, or when --wait or --wait-devices ran out.
"""

import argparse
import json
import os
import sys

from flowerbed import server_socket
from flowerbed.trainer_socket import TrainerError, TrainerSocket


def main() -> None:
    """Print the state of the trainer or of the server that a configuration file describes."""
    parser = argparse.ArgumentParser(prog="flowerbed.status", description=__doc__)
    parser.add_argument("config", help="trainer.json, or server.json with --server")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait until the trainer is ready")
    parser.add_argument("--server", action="store_true", help="the file is server.json")
    parser.add_argument("--wait-devices", type=float, metavar="SECONDS", help="wait until every device is connected")
    parser.add_argument("--without", nargs="*", default=[], metavar="DEVICE", help="but not until these are")
    options = parser.parse_args()
    try:
        with open(options.config) as file:
            config = json.load(file)
        os.chdir(os.path.dirname(os.path.abspath(options.config)))
        if options.server:
            devices = [name for name in config["devices"] if name not in options.without]
            state = server_socket.status(config["control"], devices, options.wait_devices)
        elif options.wait is not None:
            state = TrainerSocket(config["socket"]).wait_ready(options.wait, again=True)
        else:
            state = TrainerSocket(config["socket"]).health()
    except (OSError, TrainerError) as error:
        sys.exit(str(error))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        sys.exit(f"{options.config} cannot be used: {reason}")
    print(json.dumps(state))


if __name__ == "__main__":
    main()
