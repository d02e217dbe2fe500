"""Make the vibration of two pumps that are well, and for the server's test set windows with and without a fault."""

from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
RATE, SAMPLES = 1600, 128  # a second, as cheap accelerometers have; in a window
TIME = np.arange(SAMPLES) / RATE
# How much of each multiple of the rotation there is on each axis (x, y, z), and how much later it comes, in radians
ORDERS = {1: ([1.0, 0.8, 0.3], [0.0, 1.6, 0.8]), 2: ([0.3, 0.2, 0.5], [0.4, 2.0, 1.1]), 7: ([0.2, 0.3, 0.4], [1, 0, 2])}


def windows(random: np.random.Generator, count: int, hertz: float, fault: str = "") -> np.ndarray:
    """Return windows (count, 3, SAMPLES) in g of a pump that turns `hertz` times a second, with a fault or none."""
    turn = 2 * np.pi * hertz * random.normal(1, 0.01, (count, 1, 1))
    begin = random.uniform(0, 2 * np.pi, (count, 1, 1))
    angle = begin + turn * TIME
    x = np.zeros((count, 3, SAMPLES))
    for order, (strength, later) in ORDERS.items():
        x += np.reshape(strength, (3, 1)) * np.sin(order * angle + np.reshape(later, (3, 1)))
    if fault == "bearing":  # a ball that rolls over a dent rings, some four times a turn
        since = (3.6 * angle + random.uniform(0, 2 * np.pi, (count, 1, 1))) % (2 * np.pi)
        x += np.reshape([0.7, 0.9, 0.5], (3, 1)) * np.exp(-2 * since) * np.sin(9 * since)
    if fault == "loose":  # a foot that lifts at every second turn
        x[:, 2:] += 0.8 * np.sin(angle / 2 + random.uniform(0, 2 * np.pi, (count, 1, 1)))
    if fault == "unbalanced":  # across, but not along
        x[:, :1] *= 1.8
    load = np.exp(random.uniform(-1.2, 0.4, (count, 1, 1)))
    return (load * x + random.normal(0, 0.05, x.shape)).astype(np.float32)


def write(host: str, split: str, **arrays: np.ndarray) -> None:
    """Save arrays as a host's split."""
    path = DATA / host / f"{split}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    print(f"{path.relative_to(DATA.parent)}: {len(arrays['x'])} windows")


random = np.random.default_rng(0)
write("rpi-1", "train", x=windows(random, 2000, 24.5))
write("rpi-2", "train", x=windows(random, 2000, 25.5))
test = {fault: windows(random, 300, 25, fault) for fault in ("", "bearing", "loose", "unbalanced")}
labels = [np.full(len(x), bool(fault), np.uint8) for fault, x in test.items()]
write("server", "heldout", x=np.concatenate([*test.values()]), fault=np.concatenate(labels))
