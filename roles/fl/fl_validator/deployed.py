"""What only a deployment can change, so that a run uses what is deployed: is it what is asked for?"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .fleet import Fleet, Problem
from .values import typed_values

RECORD = "deployed.json"  # in the server's fl_home: what `fixed` was when each host was deployed

# A run's own, which may change from one to the next; the latter but on a device that has its own
RUN = {
    "fl_devices", "fl_enough", "fl_examples_cap", "fl_experiment", "fl_grace", "fl_initial", "fl_keep_checkpoints",
    "fl_late", "fl_metric", "fl_metric_better", "fl_min_clients", "fl_optional", "fl_round_retries", "fl_round_timeout",
    "fl_runs", "fl_seed", "fl_show", "fl_strategy", "fl_strategy_args", "fl_target_seconds", "fl_wait_clients",
    "fl_weight", "server_ready_timeout", "support_seconds", "trainer_ready_timeout",
}  # fmt: skip
OF_SUPERLINK = ("fl_node_port",)  # another place in the inventory, another port: of no account where it isn't used
TASK = ("fl_config", "fl_batch_size", "fl_local_epochs", "fl_learning_rate")

ADVICE = ": run deploy.yml with it first"
MOST_TEXTS = 3  # more values of one variable are one change, from which they are worked out

Values = dict[str, Any]


def _own(device: Mapping[str, Any], run: Mapping[str, Any]) -> Values:
    """Return what a device has otherwise than the run; of the mapping fl_config only its entries that differ."""
    own = {name: device[name] for name in TASK if name in device and device[name] != run.get(name)}
    common = run.get("fl_config", {})
    config = own.pop("fl_config", {})
    config = {key: value for key, value in config.items() if key not in common or common[key] != value}
    return {"fl_config": config, **own} if config else own


def overrides(fleet: Fleet) -> dict[str, Values]:
    """Return, for every device, its own values of the run's configuration, as its client applies them."""
    values = typed_values(fleet)
    own = {device.name: _own(values[device.name], values[fleet.servers[0].name]) for device in fleet.devices}
    return {
        device: {**mine.pop("fl_config", {}), **{name.removeprefix("fl_"): value for name, value in mine.items()}}
        for device, mine in own.items()
    }


def fixed(fleet: Fleet) -> dict[str, Values]:
    """Return every host's variables that only a deployment can change."""
    values = typed_values(fleet)
    own = {}
    for host in fleet.hosts:
        mine = values[host.name]
        own[host.name] = {
            name: value
            for name, value in mine.items()
            if name.startswith(fleet.prefixes) and name not in RUN and name not in TASK
        }
        if host not in fleet.servers:
            own[host.name] |= _own(mine, values[fleet.servers[0].name])
    return own


def changed(fleet: Fleet) -> Iterator[Problem]:
    """Yield each difference between what is asked for and what is deployed. A host without a record has none."""
    try:
        deployed = json.loads(Path(str(fleet.servers[0].values["fl_home"]), RECORD).read_text())
    except (OSError, ValueError):
        return  # nothing is deployed, which run_round.yml says itself
    asked = fixed(fleet)
    texts: dict[str, dict[str, str]] = {}  # by variable and host
    for host in fleet.hosts:
        now, then = asked[host.name], deployed.get(host.name, asked[host.name])
        unused = OF_SUPERLINK if now.get("fl_link") != "superlink" else ()
        for name in {**then, **now}:
            if now.get(name) != then.get(name) and name not in unused:
                value = now.get(name, host.values.get(name))
                text = "is not given" if value is None else f"is {value!r}"
                text += f", but {then[name]!r} is deployed" if name in then else ", which is not deployed"
                text += ": run deploy.yml first" if value is None else ADVICE
                texts.setdefault(name, {})[host.name] = text
    for name, hosts in texts.items():
        same = len({*hosts.values()}) <= MOST_TEXTS
        for host, text in hosts.items():
            yield Problem(host, name, text if same else f"is not what is deployed{ADVICE}")
