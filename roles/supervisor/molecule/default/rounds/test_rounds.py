"""What a round leaves."""

import json

from flowerbed import tensors


def test_both_devices_took_part_with_what_they_have(folder):
    events = [json.loads(line) for line in (folder / "runs/molecule/metrics.jsonl").read_text().splitlines()]
    devices = {event["device"]: event for event in events if event["event"] == "device"}
    assert {name: (event["examples"], event["weight"]) for name, event in devices.items()} == dict.fromkeys(
        ("rpi-1", "jetson-4gb-1"), (647, 0.5)
    )
    (done,) = [event for event in events if event["event"] == "round"]
    assert (done["round"], done["clients_answered"]) == (1, 2) and done["accuracy"] > 0.2  # of ten classes


def test_there_is_a_model(folder):
    model = tensors.unpack((folder / "runs/molecule/model/last.safetensors").read_bytes())
    assert sum(array.size for array in model.values()) > 1000
