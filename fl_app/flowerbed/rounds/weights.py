"""p_m, the weight of device m in the objective L(θ) = Σ p_m L_m(θ), as its user chose it.

The choice of a device is `examples` (n_m / n, FedAvg's own: McMahan et al., 2017, arXiv:1602.05629), `uniform`, or a
number. Weights are normalised over the devices whose updates are aggregated, so they need not sum to one.

n_m is what the server counts where it has split the data, whatever a device claims. Of its own data only the device
knows the number, so a claim far above the median of all is cut. The same goes for the L_m themselves, measured on what
each device holds out: their mean over the devices has the same p_m, there by numbers of held-out examples.
"""

import math
import statistics
from collections.abc import Mapping

RULES = ("examples", "uniform")


def parse(value: object) -> str | float:
    """Return a weight as its rule's name or as a number. Raises ValueError, saying what a weight may be."""
    if value in RULES:
        return str(value)
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)  # type: ignore[arg-type]
        if not math.isfinite(number) or number < 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"is {value!r}, but must be examples, uniform or a number of at least 0") from None
    return number


def problems(weights: Mapping[str, object]) -> list[tuple[str | None, str]]:
    """Return what is wrong with the weights of all devices: pairs of a device (None: all) and a sentence's end."""
    wrong: list[tuple[str | None, str]] = []
    parsed: dict[str, str | float] = {}
    for device, value in weights.items():
        try:
            parsed[device] = parse(value)
        except ValueError as error:
            wrong.append((device, str(error)))
    if wrong or not parsed:
        return wrong
    kinds = {value if isinstance(value, str) else "number" for value in parsed.values()}
    if len(kinds) > 1:
        numbered = [device for device, value in parsed.items() if not isinstance(value, str)]
        others = [device for device, value in parsed.items() if isinstance(value, str)]
        few, rest, has = (
            (others, numbered, "no number") if len(others) <= len(numbered) else (numbered, others, "a number")
        )
        if kinds == set(RULES):
            few, has = [device for device, value in parsed.items() if value == "uniform"], "the rule uniform"
            rest = [device for device in parsed if device not in few]
        otherwise = ", ".join(rest[:3]) + (" and others" if len(rest) > 3 else "")
        sentence = f"gives {has}, while {otherwise} do otherwise: give every device a number, or none"
        wrong += [(device, sentence) for device in few]
    elif kinds == {"number"} and not any(parsed.values()):
        wrong.append((None, "is 0 for every device: give at least one device a weight above 0"))
    return wrong


def resolve(
    weights: Mapping[str, object], examples: Mapping[str, int], factors: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return p_m for the devices in `examples` (number of training examples n_m by device); they sum to 1.

    `factors` are what the weight of some is multiplied with first. Raises ValueError when every one of these devices
    has weight 0.
    """
    raw: dict[str, float] = {}
    for device, count in examples.items():
        value = parse(weights[device])
        raw[device] = float(count) if value == "examples" else 1.0 if value == "uniform" else float(value)
        raw[device] *= (factors or {}).get(device, 1.0)
    largest = max(raw.values(), default=0)
    if largest <= 0:
        raise ValueError(f"the weights of the devices that answered ({', '.join(raw) or 'none'}) are all 0")
    scale = -math.frexp(largest)[1]  # a power of two: it changes no bit, and no sum of large weights overflows
    scaled = {device: math.ldexp(weight, scale) for device, weight in raw.items()}
    total = math.fsum(scaled.values())
    return {device: weight / total for device, weight in scaled.items()}


def counts(claims: Mapping[str, int], known: Mapping[str, int], cap: float) -> dict[str, int]:
    """Return n_m for the devices in `claims` (number of examples by device, as each says).

    It is the number in `known`, where there is one; else the claim, but at most `cap` times the (lower) median of all.
    """
    median = statistics.median_low([known.get(device, claim) for device, claim in claims.items()]) if claims else 0
    most = cap * median
    return {
        device: known[device] if device in known else claim if claim <= most else int(most)
        for device, claim in claims.items()
    }
