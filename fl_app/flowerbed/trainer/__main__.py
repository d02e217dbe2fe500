"""Start a trainer: python -m flowerbed.trainer trainer.json."""

import json
import os
import signal
import sys

from .http import serve
from .jobs import Jobs
from .worker import Worker


def main(path):
    """Serve the trainer that the JSON file at `path` describes, until a signal ends it."""
    try:
        with open(path) as file:
            config = json.load(file)
        os.chdir(os.path.dirname(os.path.abspath(path)))
        worker = Worker(config)
        server = serve(config["socket"], worker, Jobs())
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "it lacks %s" % error if isinstance(error, KeyError) else error
        sys.exit("the trainer cannot start from %s: %s" % (path, reason))

    trainer = os.getpid()

    def stop(number, _):
        if os.getpid() != trainer:  # a process that the task forked has this handler, too, and the client's connection
            os._exit(128 + number)
        server.farewell()
        os._exit(0)  # nothing to save, and torch's threads need no farewell

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m flowerbed.trainer trainer.json")
    main(sys.argv[1])
