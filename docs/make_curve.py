"""Draw an experiment's accuracy by round, and print its table: python docs/make_curve.py METRICS.jsonl PICTURE.svg."""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

TUTORIAL = 0.61  # what the tutorial tells of its clients' own splits after 100 rounds
EVERY = 10


def main() -> None:
    """Read the events, draw, print."""
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/make_curve.py METRICS.jsonl PICTURE.svg")
    events = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    rounds = [event for event in events if event["event"] == "round"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    number = [event["round"] for event in rounds]
    axis.plot(number, [event["accuracy"] for event in rounds], label="global model, global test set")
    axis.plot(number, [event["heldout_accuracy"] for event in rounds], label="global model, devices' held-out examples")
    axis.axhline(TUTORIAL, color="gray", linestyle="--", label="the tutorial's figure after 100 rounds")
    axis.set(xlabel="round", ylabel="accuracy", xlim=(0, number[-1]))
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    figure.savefig(sys.argv[2])
    print("| round | accuracy on the test set | loss | on devices' held-out examples |\n|--:|--:|--:|--:|")
    for event in rounds:
        number, test, heldout = event["round"], event["accuracy"], event["heldout_accuracy"]
        if number in (1, 5) or number % EVERY == 0:
            print(f"| {number} | {test:.1%} | {event['loss']:.3f} | {heldout:.1%} |")
    best = max(rounds, key=lambda event: event["accuracy"])
    seconds = sum(event["seconds"] for event in rounds)
    print(f"\nBest: {best['accuracy']:.1%} after round {best['round']}. {seconds:.0f} s.")


if __name__ == "__main__":
    main()
