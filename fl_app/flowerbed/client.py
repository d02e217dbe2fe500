"""Start a device's client on the stream link: python -m flowerbed.client client.json. No torch here."""

import logging
import sys

from .link.answers import ClientConfig
from .link.stream.device import serve
from .parts import return_freed_memory


def main() -> None:
    """Serve the server that client.json names, until a signal ends it."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m flowerbed.client client.json")
    return_freed_memory()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    try:
        client = ClientConfig.load(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    serve(client)


if __name__ == "__main__":
    main()
