"""Updates as steps from the model of now: those of devices that did more or less work, and those that came late.

An update w_m of device m, trained from the model w, is taken as the step w_m - w. Two things change such steps:

- Devices that did different numbers of local steps τ_m would pull the model towards those that did many, and the
  objective would no longer be Σ p_m L_m. FedNova (Wang et al., 2020, arXiv:2007.07481) takes each step by its number of
  local steps, and their mean by the effective number: w + τ_eff Σ p_m (w_m - w) / τ_m with τ_eff = Σ p_m τ_m. That is
  its form for local SGD; here Adam's steps are counted likewise.
- A late update was trained from a model of t rounds before. It is taken as a step from the model of now, as in FedBuff
  (Nguyen et al., 2022, arXiv:2106.06639), and its weight is p_m times FedAsync's polynomial (1 + t)^-a (Xie et al.,
  2019, arXiv:1903.03934), with a = 0.5.

What is not learnt, such as BatchNorm's statistics, is a state and no step: it is taken as it is.
"""

import math
from collections.abc import Mapping

import numpy as np

from . import sound
from .sound import State

STALENESS = 0.5  # a


def staleness(rounds: int) -> float:
    """Return the factor to the weight of an update that comes so many rounds late."""
    return (1.0 + rounds) ** -STALENESS


def factors(steps: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, float]:
    """Return τ_eff / τ_m of each device from its number of local steps and its p_m; exactly 1 if all did as many."""
    if len(set(steps.values())) == 1:
        return dict.fromkeys(steps, 1.0)
    effective = math.fsum(shares[device] * count for device, count in steps.items())
    return {device: effective / count for device, count in steps.items()}


def moved(update: State, base: State, model: State, factor: float, as_sent: set[str]) -> State:
    """Return model + factor · (update - base), in the update's types; of `as_sent`, what was sent."""
    result = {}
    with np.errstate(all="ignore"):  # what comes of it is looked at
        for name, array in update.items():
            if name in as_sent or array.dtype.kind != "f" or sound.extreme(base[name]) is not None:
                result[name] = array
                continue
            kind = np.promote_types(array.dtype, np.float32)
            step = np.subtract(array, base[name], dtype=kind) * kind.type(factor)
            result[name] = np.add(model[name], step, dtype=kind).astype(array.dtype, copy=False)
    return result
