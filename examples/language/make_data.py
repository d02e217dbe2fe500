"""Make what two households say to their devices: each has habits of its own, and much in common."""

import re
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
LINES = 3000
WORDS = {
    "sentence": [
        "turn [switch] the [thing] in the [room]",
        "turn [switch] the [thing] in the [room] at [hour]",
        "set a timer for [number] minutes",
        "wake me at [hour] on [day]",
        "what is the weather in [town] on [day]",
        "is it going to rain in [town] on [day]",
        "remind me to [job] on [day] at [hour]",
        "add [food] and [food] to the shopping list",
        "how long do I cook [number] [food]",
        "play [tune] in the [room]",
    ],
    "switch": ["on", "off"],
    "thing": ["light", "heating", "radio", "television", "fan"],
    "room": ["kitchen", "bathroom", "hall", "bedroom", "cellar", "study"],
    "hour": ["six", "half past six", "seven", "half past seven", "eight", "noon", "ten in the evening"],
    "number": ["two", "three", "five", "ten", "twelve", "twenty", "forty"],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "town": ["Ulm", "Graz", "Zürich", "Köln", "Genève", "Lyon"],
    "job": ["water the plants", "call my sister", "feed the cat", "pay the rent", "take out the bins"],
    "food": ["potatoes", "eggs", "lentils", "apples", "onions", "carrots"],
    "tune": ["the news", "my audiobook", "the symphony", "some jazz", "the piano concerto"],
}


def household(random: np.random.Generator) -> list[str]:
    """Return lines of one household, which says some things much more often than others."""
    habits = {kind: random.dirichlet(np.ones(len(words))) for kind, words in WORDS.items()}

    def say(kind: str) -> str:
        return re.sub(r"\[(\w+)\]", lambda gap: say(gap[1]), random.choice(WORDS[kind], p=habits[kind]))

    return [say("sentence") for _ in range(LINES)]


for number, host in enumerate(["rpi-1", "rpi-2"]):
    path = DATA / host / "texts.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(household(np.random.default_rng(number))) + "\n", encoding="utf-8")
    print(f"{path.relative_to(DATA.parent)}: {LINES} lines")
