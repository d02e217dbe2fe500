"""The memory that a round of a model takes, said before it is trained; and who has not got it."""

from collections.abc import Mapping
from typing import Any

from .. import memory

# How often the server holds the model at most, as measured: for each device that trains, and besides.
AT_THE_SERVER = {
    "FedAvg": (1, 1), "FedProx": (1, 1), "FedMedian": (1, 1), "FedTrimmedAvg": (1, 1), "FedAvgM": (1, 9),
    "FedAdagrad": (1, 12), "FedYogi": (1, 12), "FedAdam": (1, 15), "QFedAvg": (1, 10), "Krum": (3, 0),
    "MultiKrum": (3, 0), "Bulyan": (7, 3),
}  # fmt: skip
# A trainer holds the model, and once more what it received or sends, which its client then has, too.
_IN_A_TRAINER, _IN_A_CLIENT = 2, 1
# The superlink link holds it more often: SuperLink and ServerApp at the server, SuperNode and ClientApp on a device.
_ON_SUPERLINK, _IN_A_SUPERNODE = 3, 7


def on_a_device(link: str) -> int:
    """Return how often a device holds the model at most."""
    return _IN_A_TRAINER + (_IN_A_SUPERNODE if link == "superlink" else _IN_A_CLIENT)


def of_a_round(size: int, strategy: str, devices: int, link: str) -> dict[str, Any]:
    """Return an event that says what rounds of a model of `size` bytes take, at most, with so many devices."""
    each, besides = AT_THE_SERVER.get(strategy, max(AT_THE_SERVER.values()))
    server, device = (each * devices + besides) * size, on_a_device(link) * size
    server *= _ON_SUPERLINK if link == "superlink" else 1
    message = (
        f"the model has {_size(size)}: a round takes up to {_size(server)} of memory at the server, and "
        f"{_size(device)} on a device, besides what training itself takes"
    )
    return {
        "event": "memory", "model_bytes": size, "server_bytes": server, "device_bytes": device, "message": message
    }  # fmt: skip


def lacking_at_the_server(needed: int) -> str | None:
    """Return a sentence if this machine, or container, has not so many bytes left."""
    left = min((number for number in memory.left() if number is not None), default=needed)
    if left >= needed:
        return None
    return (
        f"the server has {_size(left)} of memory left, but a round takes up to {_size(needed)}: it may be killed; "
        "take a smaller model, fewer devices a round, or a machine with more memory or swap"
    )


def lacking(device: str, about: Mapping[str, Any], size: int, link: str) -> str | None:
    """Return a sentence if a device, by what it says of itself, has too little memory left for a model of `size`."""
    told = [about.get(name) for name in ("memory_left", "container_memory_left", "client_memory_left")]
    whole = on_a_device(link)
    needed = [whole * size, _IN_A_TRAINER * size, (whole - _IN_A_TRAINER) * size]
    holders = [device, f"the container of {device}'s trainer", f"the container of {device}'s client"]
    remedies = [
        "take a smaller model, or give the board swap",
        "raise its trainer_memory, then run deploy.yml",
        "raise its client_memory, then run deploy.yml",
    ]
    for left, wanted, holder, remedy in zip(told, needed, holders, remedies, strict=True):
        if isinstance(left, int) and 0 <= left < wanted:
            return (
                f"{holder} has {_size(left)} of memory left, but a model of {_size(size)} takes {_size(wanted)} there, "
                f"besides what training itself takes: it may be killed; {remedy}"
            )
    return None


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
