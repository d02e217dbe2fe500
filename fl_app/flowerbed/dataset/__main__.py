"""`python -m flowerbed.dataset [--check] dataset.json`: make every device's shards, where they are not made yet.

Prints one line, {"changed": ..., "manifest": ...}, with "changes", a list of sentences, where devices came or went. Or
it prints one sentence about what is wrong on stderr, and exits with 1.
"""

import argparse
import json
import sys

from flowerbed.dataset import DatasetError, config
from flowerbed.dataset.store import Store
from flowerbed.words import clean


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m flowerbed.dataset", description="Make every device's shards.")
    parser.add_argument("--check", action="store_true", help="write nothing, only say whether anything would change")
    parser.add_argument("configuration", help="the JSON file that names the data set, its partition and the devices")
    arguments = parser.parse_args()
    try:
        print(json.dumps(make(config.read(arguments.configuration), arguments.check)))
    except DatasetError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"cannot read {error.filename or 'the data set'}: {error.strerror or error}")
    except ModuleNotFoundError as error:
        return _fail(f"{sys.executable} lacks {error.name}: install what requirements.txt lists for it")
    except MemoryError:
        return _fail("there is not enough memory to load the data set: use a smaller one, or a smaller image size")
    return 0


def make(settings: config.Config, check: bool = False) -> dict:
    """Make the shards, unless they are there already; return whether anything changed, the manifest, and who came."""
    store = Store(settings)
    manifest = store.manifest()
    if manifest is not None:
        return {"changed": False, "manifest": manifest}
    if check and settings.hub:  # a check fetches nothing
        return {"changed": True, "manifest": {"warnings": []}}
    from flowerbed.dataset.build import build

    shards, manifest, split = build(settings, store.split)
    changes = {"changes": split.changes} if split.changes else {}
    return {"changed": store.write(shards, manifest, split, check), "manifest": manifest, **changes}


def _fail(sentence: str) -> int:
    print(clean(sentence, 1000), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
