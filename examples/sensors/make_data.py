"""Make two weeks of readings of two sensors beside reference stations, and of a third for the server's test set."""

from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
# The split, and the NO2 that is usual there in µg/m³, and °C: a busy street, a yard, a square that no device has seen
PLACES = {
    "rpi-1": ("train", 45, 12),
    "rpi-2": ("train", 18, 20),
    "server": ("heldout", 30, 16),
}
EVERY = np.timedelta64(10, "m")
COUNT = 14 * 24 * 6


def drifting(random: np.random.Generator, spread: float) -> np.ndarray:
    """Return noise that changes slowly, as weather does."""
    steps = random.normal(0, spread * np.sqrt(1 - 0.98**2), COUNT)
    steps[0] = random.normal(0, spread)
    for index in range(1, COUNT):
        steps[index] += 0.98 * steps[index - 1]
    return steps


def readings(random: np.random.Generator, usual: float, warm: float) -> list[str]:
    """Return the lines of a CSV: what the sensors read, and the NO2 that the station beside them measured."""
    times = np.datetime64("2026-03-02T00:00") + EVERY * np.arange(COUNT)
    hour = np.arange(COUNT) / 6 % 24
    rush = np.exp(-(((hour - 8) / 2) ** 2)) + np.exp(-(((hour - 18) / 2.5) ** 2))
    no2 = usual * (0.5 + rush) * np.exp(drifting(random, 0.3))
    temperature = warm + 6 * np.sin((hour - 9) / 24 * 2 * np.pi) + drifting(random, 3)
    humidity = np.clip(60 - 2 * (temperature - warm) + drifting(random, 12), 15, 98)
    # What the sensor gives is not linear, grows with warmth, and sinks in damp air
    signal = 180 + 9 * no2**0.75 * (1 + 0.015 * (temperature - 20)) + 2.5 * (temperature - 20) - 0.6 * (humidity - 50)
    signal += random.normal(0, 4, COUNT)
    lines = ["time,signal,temperature,humidity,no2"]
    for row in zip(times, signal, temperature, humidity, no2, strict=True):
        time, *values = [str(row[0]).replace("T", " "), *(f"{value:.1f}" for value in row[1:])]
        if random.random() < 0.02:
            values[2] = ""  # the hygrometer did not answer
        lines.append(",".join([time, *values]))
    return lines


for number, (host, (split, usual, warm)) in enumerate(PLACES.items()):
    path = DATA / host / f"{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(readings(np.random.default_rng(number), usual, warm)) + "\n")
    print(f"{path.relative_to(DATA.parent)}: {COUNT} readings")
