"""What travels in a message, on every link: one packed buffer and one JSON object."""

import json
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

ARRAYS, CONFIG = "arrays", "config"
QUERY = "query"  # who are you?


def make_content(packed: bytes, values: dict[str, Any]) -> RecordDict:
    """Return a message's content: the packed tensors (may be empty) and JSON-able values."""
    buffer = Array(dtype="uint8", shape=(len(packed),), stype="safetensors", data=packed)
    return RecordDict({ARRAYS: ArrayRecord({"packed": buffer}), CONFIG: ConfigRecord({"json": json.dumps(values)})})


def read_content(content: RecordDict) -> tuple[bytes, dict[str, Any]]:
    """Return the packed tensors and the values of a message's content. Raises ValueError if it isn't ours."""
    try:
        # What `content.array_records` returns refers to `content`, in which it is kept: both would stay until Python
        # collects garbage.
        packed = content[ARRAYS]["packed"].data
        values = json.loads(str(content[CONFIG]["json"]))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the message's content is not Flowerbed's: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("the message's values are not a JSON object")
    return packed, values
