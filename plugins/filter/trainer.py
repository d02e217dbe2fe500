"""What a board says, made fit for a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "fl_app"))
from flowerbed.words import clean, clean_all


def answer(output: str) -> dict[str, Any]:
    """Return the JSON object that a program on a board printed, with its texts cleaned; an empty one if it is none."""
    try:
        document = json.loads(output)
    except (ValueError, RecursionError):
        return {}
    return clean_all(document) if isinstance(document, dict) else {}


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"trainer_answer": answer, "trainer_line": clean}
