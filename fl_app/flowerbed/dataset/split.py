"""Who has which examples, from one deployment to the next: devices come and go, and those that stay keep theirs.

A device that goes leaves its share unused. One that comes has its own share again if it was here before, or takes over
that of the device that went last. Where there is none, each of the others gives it an equal part: examples to train on
of those to train on, and held-out ones of held-out ones, so nobody is judged by what another has trained on. Under
`sizes`, one that comes gets what nobody ever had, or also what is left of those that went. There the others give none.
"""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from flowerbed.dataset import DatasetError
from flowerbed.dataset.config import Config
from flowerbed.dataset.partition import partition
from flowerbed.dataset.shards import heldout_count


class Share(NamedTuple):
    """The indices of a device's examples, in the order in which it has them."""

    train: np.ndarray
    heldout: np.ndarray

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.train) + len(self.heldout)


@dataclass
class Split:
    """The shares of devices, and of those that went; `of` says of what, and split how; `changes`, what changed last.

    `first` is the fingerprint of the shards as they were first, which tells one split from another.
    """

    of: str
    devices: dict[str, Share]
    gone: dict[str, Share] = field(default_factory=dict)  # the first to go is first
    first: str = ""
    changes: list[str] = field(default_factory=list)

    def dump(self) -> bytes:
        """Return it as JSON."""
        lists = {
            name: {device: [part.tolist() for part in share] for device, share in getattr(self, name).items()}
            for name in ("devices", "gone")
        }
        return json.dumps({"of": self.of, "first": self.first, **lists}).encode()

    @classmethod
    def load(cls, content: bytes | None) -> "Split | None":
        """Return what `dump` has written, or None where there is none, or it is damaged."""
        try:
            known = json.loads(content or b"")
            shares = [
                {device: Share(*(np.array(part, np.int64) for part in share)) for device, share in known[name].items()}
                for name in ("devices", "gone")
            ]
            return cls(known["of"], *shares, known["first"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def sharing(config: Config, known: Split | None) -> list[str]:
    """Return the devices that are to have a share: where not all are deployed to, others that are new have none yet."""
    if known is None or config.only is None:
        return config.devices
    return [device for device in config.devices if device in known.devices or device in config.only]


def split(labels: np.ndarray, of: str, config: Config, known: Split | None) -> Split:
    """Return the split `known` with the devices of `config`; a new one, if that was of another data set."""
    if known is None or known.of != of:
        return _begin(labels, of, config)
    kept = {device: share for device, share in known.devices.items() if device in config.devices}
    if config.partition == "sizes" and any(share.size != config.sizes[device] for device, share in kept.items()):
        return _begin(labels, of, config)
    return _change(known, kept, config, len(labels))


def _begin(labels: np.ndarray, of: str, config: Config) -> Split:
    devices = {}
    for device, share in zip(config.devices, partition(labels, config), strict=True):
        count = heldout_count(len(share), config.heldout)  # the share's order is random by seed already
        devices[device] = Share(share[count:], share[:count])
    return Split(of, devices)


def _change(known: Split, have: dict[str, Share], config: Config, total: int) -> Split:
    went = [device for device in known.devices if device not in have]
    gone = known.gone | {device: known.devices[device] for device in went}
    changes = [f"{device} went, and leaves {known.devices[device].size} examples unused" for device in went]
    devices = sharing(config, known)
    for device in devices:
        as_large = config.partition != "sizes" or device in gone and gone[device].size == config.sizes[device]
        if device not in have and device in gone and as_large:
            have[device] = gone.pop(device)
            changes.append(f"{device} has its own share again")
    for device in devices:
        if device in have:
            continue
        if config.partition == "sizes":
            have[device] = _take(device, have, gone, config, total)
            changes.append(f"{device} gets {have[device].size} examples that no other device has")
        elif gone:
            before, have[device] = gone.popitem()
            changes.append(f"{device} takes over the share of {before}")
        elif config.only is not None:
            raise DatasetError(
                f"no share of {config.name} is left for {device}: deploy to all devices, without --limit, and each of "
                "the others gives it a part of its own"
            )
        else:
            have[device] = _collect(device, have)
            changes.append(
                f"each of the others gives {device} a part of its share, {have[device].size} examples in all"
            )
    return Split(known.of, {device: have[device] for device in devices}, gone, known.first, changes)


def _collect(device: str, have: dict[str, Share]) -> Share:
    """Take an equal part of each share in `have`, which keeps at least one example of each kind; return them."""
    given: list[list[np.ndarray]] = [[], []]
    totals = [0, 0]
    for giver, share in have.items():
        kept = []
        for kind, part in enumerate(share):
            due = (totals[kind] + len(part)) // (len(have) + 1) - totals[kind] // (len(have) + 1)
            totals[kind] += len(part)
            left = max(len(part) - due, min(len(part), 1))
            kept.append(part[:left])
            given[kind].append(part[left:])
        have[giver] = Share(*kept)
    got = Share(*(np.concatenate(parts) for parts in given))
    if not len(got.train):
        raise DatasetError(f"the other devices have too few examples to give {device} any: use a larger set")
    return got


def _take(device: str, have: dict[str, Share], gone: dict[str, Share], config: Config, total: int) -> Share:
    """Return as many examples as `device` is to have that nobody has; take them out of the shares in `gone`."""
    size = config.sizes[device]
    given = np.concatenate([part for share in [*have.values(), *gone.values()] for part in share])
    order = np.random.default_rng(config.seed).permutation(total)  # as in the partition
    free = order[~np.isin(order, given)]
    taken = gone if len(free) < size else {}
    pool = np.concatenate([*(share.heldout for share in taken.values()), free])
    held = pool[: heldout_count(size, config.heldout)]
    rest = np.concatenate([free[~np.isin(free, held)], *(share.train for share in taken.values())])
    train = rest[: size - len(held)]
    if len(train) + len(held) < size:  # by a little, as shares are rounded: so it holds out more
        held = pool[: size - len(train)]
        train = train[~np.isin(train, held)]
    if len(train) + len(held) < size or not len(train):
        raise DatasetError(
            f"dataset_size of {device} is {size}, but only {len(train) + len(held)} examples are left that no other "
            "device has: lower it; or give dataset_seed another value, for all to be split anew, and begin a new "
            "experiment"
        )
    got = Share(train, held)
    for name, share in list(taken.items()):
        gone[name] = Share(*(part[~np.isin(part, np.concatenate(got))] for part in share))
        if not gone[name].size:
            del gone[name]
    return got
