"""Start a client on the stream link: python -m flowerbed.client client.json."""

import logging
import sys

from ..parts import return_freed_memory
from .handler import ClientConfig
from .stream import serve


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
