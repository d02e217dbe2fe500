"""Whole rounds on a fleet of real processes: the mathematics, and what happens when parts of it fail."""

import json
import signal

import numpy as np
import pytest

import fleet
import images
from flowerbed import tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.trainer_socket import TrainerError

# The default task; what a device does besides is read from a file in its folder, at every call.
TASK = (
    fleet.TASK.read_text()
    + """
_build_model, _train = build_model, train


def build_model(config):
    model = _build_model(config)
    model.register_buffer("ballast", torch.rand(200_000))  # an update travels in parts
    return model


def train(model, data, config):
    import os, time
    mood = open("mood").read() if os.path.exists("mood") else ""
    while mood == "slow" and os.path.exists("mood"):
        time.sleep(0.02)
    metrics = _train(model, data, config)
    if mood == "nan":
        next(model.parameters()).data[:] = float("nan")
    if mood == "crash":
        raise RuntimeError("the sensor is unplugged")
    return metrics


_evaluate = evaluate


def evaluate(model, data, config):
    import os
    metrics = _evaluate(model, data, config)
    lost = os.path.exists("mood") and open("mood").read() == "lost"
    return dict(metrics, loss=float("nan")) if lost else metrics
"""
)
SIZES = [40, 60, 80]


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("g")
    (folder / "task.py").write_text(TASK)
    garden = fleet.Fleet(folder, SIZES, folder / "task.py")
    yield garden
    garden.stop()


@pytest.fixture(autouse=True)
def whole(garden):
    """Every test begins with a fleet that is whole and in no mood."""
    for device in garden.devices:
        mood(garden, device, None)
    garden.start()


def mood(garden, device, value):
    path = garden.folder / device / "mood"
    path.write_text(value) if value else path.unlink(missing_ok=True)


def model(garden, experiment, number):
    folder = garden.folder / "runs" / experiment / "checkpoints"
    return checkpoints.load(checkpoints.path_of(folder, number)).model


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def initial(garden):
    return garden.trainer("server").call("initial", b"", garden.task_config(0))[0]


@pytest.mark.parametrize(
    ("name", "choice"),
    [("examples", ["examples"] * 3), ("uniform", ["uniform"] * 3), ("numbers", [0.2, 0.5, 0.3]), ("zero", [1, 0, 3])],
)
def test_the_global_model_is_the_weighted_sum_of_the_devices_models(garden, name, choice):
    weights = dict(zip(garden.devices, choice, strict=True))
    assert garden.run(name, weights=weights) == (0, "round 1 is done")
    assert all({"python", "numpy", "torch", "processor"} <= set(event) for event in garden.events(name, "device"))
    raw = {"examples": SIZES, "uniform": [1, 1, 1]}.get(name, choice)
    shares = np.array(raw, float) / sum(raw)
    start = initial(garden)
    states = [
        tensors.unpack(garden.trainer(device).call("train", start, garden.task_config(1))[0])
        for device in garden.devices
    ]
    for tensor, got in model(garden, name, 1).items():
        wanted = sum(p * state[tensor].astype(np.float64) for p, state in zip(shares, states, strict=True))
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    said = {event["device"]: event for event in garden.events(name, "device")}
    for device, share in zip(garden.devices, shares, strict=True):
        assert said[device]["weight"] == pytest.approx(share)
        assert said[device]["status"] == ("ok" if share else "skipped")
        assert said[device]["heldout_examples"] == 20
    heldout = {"examples": [1, 1, 1], "uniform": [1, 1, 1]}.get(name, choice)  # each holds out as many
    [done] = garden.events(name, "round")
    for metric in ("heldout_loss", "heldout_accuracy"):
        wanted = np.average([said[device][metric] for device in garden.devices], weights=heldout)
        assert done[metric] == pytest.approx(wanted)


def test_one_device_with_all_the_weight_is_plain_local_training(garden):
    assert garden.run("alone", rounds=2, weights={"d0": 1, "d1": 0, "d2": 0})[0] == 0
    state = initial(garden)
    for number in (1, 2):
        state = garden.trainer("d0").call("train", state, garden.task_config(number))[0]
    assert same(model(garden, "alone", 2), tensors.unpack(state))


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam", "FedAvgM"])
def test_three_calls_of_one_round_are_one_call_of_three(garden, strategy):
    assert garden.run(f"{strategy}-at-once", rounds=3, strategy=strategy)[0] == 0
    for _ in range(3):
        assert garden.run(f"{strategy}-in-turn", rounds=1, strategy=strategy)[0] == 0
    assert same(model(garden, f"{strategy}-at-once", 3), model(garden, f"{strategy}-in-turn", 3))


@pytest.mark.parametrize(
    ("strategy", "arguments"),
    [
        ("FedProx", {"proximal_mu": 0.1}),
        ("FedMedian", {}),
        ("Krum", {"num_malicious_nodes": 0}),
        ("QFedAvg", {"client_learning_rate": 0.1}),
    ],
)
def test_other_strategies_learn_too(garden, strategy, arguments):
    assert garden.run(strategy, rounds=3, strategy=strategy, strategy_args=arguments)[0] == 0
    losses = [event["loss"] for event in garden.events(strategy, "round")]
    assert losses[2] < losses[0]


def test_what_is_recorded_of_a_round(garden):
    garden.run("record")
    [done] = garden.events("record", "round")
    assert done["clients_asked"] == done["clients_answered"] == 3
    assert 0 <= done["accuracy"] <= 1 and 0 <= done["heldout_accuracy"] <= 1
    event = garden.events("record", "device")[0]
    size = (garden.folder / "runs/record/model/last.safetensors").stat().st_size
    assert event["bytes_down"] == pytest.approx(size, rel=0.1) and event["bytes_up"] == pytest.approx(size, rel=0.1)
    assert {
        "seconds_load",
        "seconds_train",
        "seconds_transfer",
        "peak_memory_bytes",
        "loss",
        "accuracy",
    } <= event.keys()


@pytest.mark.parametrize(
    ("value", "sentence"), [("nan", "sent an update with NaN"), ("crash", "the sensor is unplugged")]
)
def test_a_useless_update_is_left_out_by_name_and_the_round_goes_on(garden, value, sentence):
    mood(garden, "d1", value)
    assert garden.run(value) == (0, "round 1 is done")
    [problem] = garden.events(value, "problem")
    assert problem["device"] == "d1" and sentence in problem["message"]
    shares = {event["device"]: event.get("weight") for event in garden.events(value, "device")}
    assert shares == {"d0": pytest.approx(40 / 120), "d1": None, "d2": pytest.approx(80 / 120)}
    assert value == "nan" or "RuntimeError" in (garden.folder / f"runs/{value}/logs/run.log").read_text()
    mood(garden, "d1", None)
    assert garden.run(value)[0] == 0
    assert garden.events(value, "round")[-1]["clients_answered"] == 3


def test_when_all_devices_diverge_the_model_they_began_from_is_named(garden):
    assert garden.run("diverged")[0] == 0
    for device in garden.devices:
        mood(garden, device, "nan")
    code, sentence = garden.run("diverged")
    assert code == 1 and all(f"{device} sent an update with NaN" in sentence for device in garden.devices)
    path = checkpoints.path_of(garden.folder / "runs/diverged/checkpoints", 1)
    assert "the model of round 1, which may be what is wrong" in sentence and f"remove {path}" in sentence
    assert garden.events("diverged", "round")[-1]["round"] == 1


def test_a_model_that_no_device_can_score_may_itself_be_wrong(garden):
    for device in garden.devices:
        mood(garden, device, "lost")
    assert garden.run("lost")[0] == 0
    *devices, last = [event["message"] for event in garden.events("lost", "problem")]
    assert len(devices) == 3 and all("loss = nan, which is not a finite number" in message for message in devices)
    assert last == "the model of round 1 itself may be what is wrong: no device's loss is finite"


@pytest.mark.parametrize("part", ["client", "trainer"])
def test_a_device_killed_in_the_middle_of_a_round_is_left_out(garden, part):
    mood(garden, "d2", "slow")
    run = garden.begin(f"killed-{part}", rounds=2)
    garden.wait_busy("d2")
    garden.signal("d2", part)
    mood(garden, "d2", None)
    garden.start()
    assert run.wait(120) == 0
    answered = [event["clients_answered"] for event in garden.events(f"killed-{part}", "round")]
    assert answered[0] == 2
    assert garden.events(f"killed-{part}", "problem")[0]["device"] == "d2"
    assert garden.run(f"killed-{part}")[0] == 0
    last = garden.events(f"killed-{part}", "round")[-1]
    assert (last["clients_answered"], last["round"]) == (3, 3)


def test_a_straggler_is_cut_at_the_deadline_and_comes_back(garden):
    mood(garden, "d0", "slow")
    assert garden.run("late", round_timeout=3) == (0, "round 1 is done")
    event = garden.events("late", "device")[0]
    assert (event["device"], event["status"]) == ("d0", "late") and "within 3 s" in event["reason"]
    garden.wait_idle("d0")
    mood(garden, "d0", None)
    assert garden.run("late")[0] == 0
    assert garden.events("late", "round")[-1]["clients_answered"] == 3


def test_a_device_that_hangs_is_left_out(garden):
    garden.signal("d1", "client", signal.SIGSTOP)
    try:
        assert garden.run("hung", round_timeout=3)[0] == 0
    finally:
        garden.signal("d1", "client", signal.SIGCONT)
    assert [event["status"] for event in garden.events("hung", "device")] == ["ok", "left-out", "ok"]


def test_a_server_killed_in_the_middle_of_a_round_loses_no_finished_round(garden):
    assert garden.run("server")[0] == 0
    mood(garden, "d0", "slow")
    run = garden.begin("server", rounds=2)
    garden.wait_busy("d0")
    garden.signal("server", "server")
    assert "the server ended in the middle of the run" in run.communicate(timeout=30)[1]
    garden.wait_idle("d0")
    mood(garden, "d0", None)
    garden.start()
    assert garden.run("server") == (0, "round 2 is done")
    assert [event["round"] for event in garden.events("server", "round")] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_stops_on_all_devices(garden, number):
    experiment = f"stopped-{number.name}"
    assert garden.run(experiment)[0] == 0
    for device in garden.devices:
        mood(garden, device, "slow")
    run = garden.begin(experiment, rounds=5)
    for device in garden.devices:
        garden.wait_busy(device)
    run.send_signal(number)
    assert run.wait(15) in (130, -9)
    for device in garden.devices:
        garden.wait_idle(device)
        mood(garden, device, None)
    fleet.wait_until(lambda: garden.events(experiment, "run-ended")[1:], 10, "the run's end")
    assert garden.events(experiment, "run-ended")[-1]["status"] == "stopped"
    assert garden.run(experiment) == (0, "round 2 is done")


def test_too_few_devices_end_the_run_with_their_names(garden):
    garden.signal("d1", "client")
    code, sentence = garden.run("few", min_clients=3, wait_clients=1)
    assert code == 1
    assert "2 of 3 devices connected within 1 s" in sentence and "missing: d1" in sentence
    code, sentence = garden.run("fewer", wait_clients=5, weights={"d0": 1, "d1": 1, "d2": 0})
    assert (code, sentence) == (0, "round 1 is done")
    [waiting] = garden.events("fewer", "waiting")
    assert waiting["devices"] == ["d1"] and waiting["message"].endswith("s for d1 (not connected, or has not answered)")
    [left_out] = garden.events("fewer", "problem")
    assert left_out["message"] == "d1 is not connected, or does not answer: it is left out"
    [done] = garden.events("fewer", "round")
    assert [done[f"clients_{what}"] for what in ("wanted", "asked", "answered")] == [2, 1, 1]


def test_devices_of_weight_0_alone_are_told_to_be_so(garden):
    garden.signal("d2", "client")
    code, sentence = garden.run("weightless", weights={"d0": 0, "d1": 0, "d2": 1}, wait_clients=1)
    assert code == 1 and "the devices that can take part in round 1, d0, d1, have fl_weight 0" in sentence


def test_weights_are_checked_before_the_first_round(garden):
    code, sentence = garden.run("unfair", weights={"d0": -1, "d1": "examples", "d2": "examples"})
    assert code == 1 and "fl_weight of d0" in sentence
    assert not garden.events("unfair", "round")


def test_a_device_with_other_task_code_is_told_to_deploy(garden):
    other = garden.folder / "other.py"
    other.write_text(TASK + "\n# another\n")
    trainer = garden.folder / "d2/trainer.json"
    before = trainer.read_text()
    trainer.write_text(json.dumps(json.loads(before) | {"task": str(other)}))
    garden.signal("d2", "trainer")
    garden.start()
    try:
        assert garden.run("mixed")[0] == 0
    finally:
        trainer.write_text(before)
        garden.signal("d2", "trainer")
    event = garden.events("mixed", "device")[2]
    assert event["status"] == "left-out" and "run deploy.yml" in event["reason"]


def test_a_device_with_another_deployments_data_or_whose_last_deployment_failed_is_left_out(garden):
    """d1 has the data of an earlier deployment, d2's last one failed; d0 is as the manifest says."""
    for host in ("server", *garden.devices):
        configure(garden, host, shard=True)
    try:
        garden.start()
        found = {host: garden.trainer(host).health()["fingerprint"] for host in ("server", *garden.devices)}
        assert len({*found.values()}) == 4
        dataset = garden.config("")["dataset"] | {"fingerprints": {**found, "d1": "0123456789abcdef"}}
        code, said = garden.run("strayed", dataset=dataset, undeployed=["d2"])
        assert (code, said) == (0, "round 1 is done")
        events = garden.events("strayed", "device")
        assert [event["status"] for event in events] == ["ok", "left-out", "left-out"]
        both = f"{found['d1']}, but this run is of 0123456789abcdef"
        assert events[1]["reason"] == f"d1 has data of another deployment ({both}): run deploy.yml"
        assert events[2]["reason"] == "d2 is left out: its last deployment failed, or there was none: run deploy.yml"
        assert garden.events("strayed", "problem")[0]["message"] == events[2]["reason"]
        assert all("heldout_loss" not in event for event in events[1:])

        with pytest.raises(TrainerError, match="d1 has data of another deployment"):
            garden.trainer("d1").call("train", initial(garden), {**garden.task_config(1), "fingerprint": "other"})
        dataset["fingerprints"] = {**found, "server": None}
        code, said = garden.run("strayed-server", dataset=dataset)
        assert code == 1 and "the server's trainer made no model: server has data of another deployment" in said
        code, said = garden.run("too-few", undeployed=["d2"], min_clients=3)
        assert code == 1 and "2 of 3 devices connected" in said and "missing: d2 (to be deployed). Run" in said, said
        code, said = garden.run("nobody", undeployed=garden.devices)
        assert (code, said) == (1, "the last deployment of every device failed, or there was none: run deploy.yml")
    finally:
        for host in ("server", *garden.devices):
            configure(garden, host, shard=False)


def configure(garden, host, **changes):
    path = garden.folder / host / "trainer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    garden.signal(host, "trainer")


def test_devices_that_number_their_classes_differently_are_refused(garden):
    for device, classes in {"d0": ["cat", "dog"], "d1": ["dog"]}.items():
        images.write(garden.folder / device / "photos", classes, 4)
        configure(garden, device, data="photos")
    try:
        garden.start()
        code, sentence = garden.run("classes")
        assert code == 1 and "a label means one class on d0 and another on d1" in sentence
        assert "['cat', 'dog'] and ['dog']: put the same classes.txt" in sentence
        assert garden.events("classes", "round") == []
        (garden.folder / "d1/photos/classes.txt").write_text("cat\ndog\n")
        garden.signal("d1", "trainer")
        garden.start()
        assert garden.run("one-list", dataset={"shape": [8, 8, 3], "classes": ["cat", "dog"]})[0] == 0
        assert [event["status"] for event in garden.events("one-list", "device")] == ["ok", "ok", "failed"]

        mood(garden, "d0", "slow")
        dataset = {"shape": [8, 8, 3], "classes": ["cat", "dog"]}
        run = garden.begin("late-list", rounds=2, dataset=dataset, weights={"d0": 1, "d1": 1, "d2": 0})
        garden.wait_busy("d0")
        fleet.wait_until(lambda: not garden.trainer("d1").health()["busy"], 30, "d1 to have trained")
        (garden.folder / "d1/photos/classes.txt").write_text("dog\ncat\n")
        garden.signal("d1", "trainer")
        garden.start()
        mood(garden, "d0", None)
        assert run.wait(60) == 0
        events = [event for event in garden.events("late-list", "device") if event["device"] == "d1"]
        assert events[1]["status"] == "left-out", events
        assert "a label means one class on d0 and another on d1" in events[1]["reason"]
        assert [event["clients_answered"] for event in garden.events("late-list", "round")][1] == 1
    finally:
        for device in ("d0", "d1"):
            configure(garden, device, data="data")


def test_a_device_that_the_inventory_does_not_know_is_refused(garden):
    stranger = garden.folder / "d0/stranger.json"
    stranger.write_text(json.dumps({"name": "stranger", "server": garden.address, "trainer": "trainer.sock"}))
    with fleet.running("client", stranger):
        log = stranger.with_suffix(".log")
        fleet.wait_until(lambda: "has no device stranger" in log.read_text(), 20, "the refusal")


def test_labels_that_the_model_has_no_place_for_end_the_run_and_do_no_harm(garden):
    two_classes = {"shape": list(fleet.SHAPE), "classes": ["0", "1"]}
    code, sentence = garden.run("labels", dataset=two_classes)
    assert code == 1 and all(f"{device} gave no update" in sentence for device in garden.devices)
    assert garden.events("labels", "round") == []
    assert garden.run("after-labels")[0] == 0
    assert garden.events("after-labels", "round")[0]["clients_answered"] == 3


def test_labels_that_the_model_has_no_place_for_are_told_in_plain_words(garden):
    _, sentence = garden.run("wide", dataset={"shape": list(fleet.SHAPE), "classes": ["0", "1"]})
    assert "label" in sentence and "Error" not in sentence and ".." not in sentence
