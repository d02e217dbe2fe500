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
    behaviour = open("behaviour").read() if os.path.exists("behaviour") else ""
    while behaviour == "slow" and os.path.exists("behaviour"):
        time.sleep(0.02)
    metrics = _train(model, data, config)
    if behaviour == "nan":
        next(model.parameters()).data[:] = float("nan")
    if behaviour == "crash":
        raise RuntimeError("the sensor is unplugged")
    return metrics


_evaluate = evaluate


def evaluate(model, data, config):
    import os
    metrics = _evaluate(model, data, config)
    lost = os.path.exists("behaviour") and open("behaviour").read() == "lost"
    return dict(metrics, loss=float("nan")) if lost else metrics
"""
)
SIZES = [40, 60, 80]


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("g")
    (folder / "task.py").write_text(TASK)
    trio = fleet.Fleet(folder, SIZES, folder / "task.py")
    yield trio
    trio.stop()


@pytest.fixture(autouse=True)
def whole(trio):
    """Every test begins with a fleet that is whole and in its usual behaviour."""
    for device in trio.devices:
        behave(trio, device, None)
    trio.start()


def behave(trio, device, value):
    path = trio.folder / device / "behaviour"
    path.write_text(value) if value else path.unlink(missing_ok=True)


def model(trio, experiment, number):
    folder = trio.folder / "runs" / experiment / "checkpoints"
    return checkpoints.load(checkpoints.path_of(folder, number)).model


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def initial(trio):
    return trio.trainer("server").call("initial", b"", trio.task_config(0))[0]


@pytest.mark.parametrize(
    ("name", "choice"),
    [("examples", ["examples"] * 3), ("uniform", ["uniform"] * 3), ("numbers", [0.2, 0.5, 0.3]), ("zero", [1, 0, 3])],
)
def test_the_global_model_is_the_weighted_sum_of_the_devices_models(trio, name, choice):
    weights = dict(zip(trio.devices, choice, strict=True))
    assert trio.run(name, weights=weights) == (0, "round 1 is done")
    assert all({"python", "numpy", "torch", "processor"} <= set(event) for event in trio.events(name, "device"))
    raw = {"examples": SIZES, "uniform": [1, 1, 1]}.get(name, choice)
    shares = np.array(raw, float) / sum(raw)
    start = initial(trio)
    states = [
        tensors.unpack(trio.trainer(device).call("train", start, trio.task_config(1))[0]) for device in trio.devices
    ]
    for tensor, got in model(trio, name, 1).items():
        wanted = sum(p * state[tensor].astype(np.float64) for p, state in zip(shares, states, strict=True))
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    said = {event["device"]: event for event in trio.events(name, "device")}
    for device, share in zip(trio.devices, shares, strict=True):
        assert said[device]["weight"] == pytest.approx(share)
        assert said[device]["status"] == ("ok" if share else "skipped")
        assert said[device]["heldout_examples"] == 20
    heldout = {"examples": [1, 1, 1], "uniform": [1, 1, 1]}.get(name, choice)  # each holds out as many
    [done] = trio.events(name, "round")
    for metric in ("heldout_loss", "heldout_accuracy"):
        wanted = np.average([said[device][metric] for device in trio.devices], weights=heldout)
        assert done[metric] == pytest.approx(wanted)


def test_one_device_with_all_the_weight_is_plain_local_training(trio):
    assert trio.run("alone", rounds=2, weights={"d0": 1, "d1": 0, "d2": 0})[0] == 0
    state = initial(trio)
    for number in (1, 2):
        state = trio.trainer("d0").call("train", state, trio.task_config(number))[0]
    assert same(model(trio, "alone", 2), tensors.unpack(state))


def test_an_experiment_begins_with_another_s_model_and_goes_on_with_its_own(trio):
    assert trio.run("pretrained")[0] == 0
    folder = trio.folder / "runs/pretrained"
    alone = {"weights": {"d0": 1, "d1": 0, "d2": 0}, "initial": str(folder)}
    assert trio.run("finetuned", **alone) == (0, "round 1 is done")
    best = (folder / "model/best.safetensors").read_bytes()
    wanted = trio.trainer("d0").call("train", best, trio.task_config(1))[0]
    assert same(model(trio, "finetuned", 1), tensors.unpack(wanted))
    [said] = trio.events("finetuned", "initial")
    assert said["message"].endswith(f"tensors from {folder}/model/best.safetensors")
    assert trio.run("finetuned", **alone)[0] == trio.run("finetuned", **alone | {"initial": ""})[0] == 0
    code, sentence = trio.run("finetuned", initial="/elsewhere")
    assert code == 1 and "experiment finetuned has begun with another first model" in sentence
    assert [event["round"] for event in trio.events("finetuned", "round")] == [1, 2, 3]
    assert len(trio.events("finetuned", "initial")) == 1


def test_nothing_is_begun_from_another_model(trio):
    file = trio.folder / "other.safetensors"
    file.write_bytes(tensors.pack({"conv": np.ones((2, 2))}))
    code, sentence = trio.run("strange", initial=str(file))
    assert code == 1 and sentence.startswith(f"fl_initial: {file} is of another model: it has 1 tensor (conv), and")
    assert not (trio.folder / "runs/strange/configuration.json").exists()
    assert trio.run("strange") == (0, "round 1 is done")


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam", "FedAvgM"])
def test_three_calls_of_one_round_are_one_call_of_three(trio, strategy):
    assert trio.run(f"{strategy}-at-once", rounds=3, strategy=strategy)[0] == 0
    for _ in range(3):
        assert trio.run(f"{strategy}-in-turn", rounds=1, strategy=strategy)[0] == 0
    assert same(model(trio, f"{strategy}-at-once", 3), model(trio, f"{strategy}-in-turn", 3))


@pytest.mark.parametrize(
    ("strategy", "arguments"),
    [
        ("FedProx", {"proximal_mu": 0.1}),
        ("FedMedian", {}),
        ("Krum", {"num_malicious_nodes": 0}),
        ("QFedAvg", {"client_learning_rate": 0.1}),
    ],
)
def test_other_strategies_learn_too(trio, strategy, arguments):
    assert trio.run(strategy, rounds=3, strategy=strategy, strategy_args=arguments)[0] == 0
    losses = [event["loss"] for event in trio.events(strategy, "round")]
    assert losses[2] < losses[0]


def test_a_strategy_that_needs_more_devices_than_there_are_trains_none(trio):
    code, sentence = trio.run("bulyan", strategy="Bulyan", undeployed=["d2"])
    assert code == 1 and sentence.startswith("2 devices can take part in round 1, but Bulyan needs 3: d2 is left out")
    assert trio.events("bulyan", "device") == []


def test_a_loss_that_explodes_is_said(trio):
    assert trio.run("explodes", strategy="FedAdagrad", strategy_args={"eta": 1})[0] == 0
    [explosion] = trio.events("explodes", "explosion")
    assert "it explodes. FedAdagrad with eta 1 moves the model too far" in explosion["message"]
    assert trio.run("sane", rounds=3, strategy="FedAdagrad")[0] == 0
    assert trio.events("sane", "explosion") == []
    [remark] = trio.events("sane", "strategy")
    assert remark["message"].startswith("FedAdagrad has eta 0.01, Flowerbed's default")


def test_what_is_recorded_of_a_round(trio):
    trio.run("record")
    [done] = trio.events("record", "round")
    assert done["clients_asked"] == done["clients_answered"] == 3
    assert 0 <= done["accuracy"] <= 1 and 0 <= done["heldout_accuracy"] <= 1
    event = trio.events("record", "device")[0]
    size = (trio.folder / "runs/record/model/last.safetensors").stat().st_size
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
def test_a_useless_update_is_left_out_by_name_and_the_round_goes_on(trio, value, sentence):
    behave(trio, "d1", value)
    assert trio.run(value) == (0, "round 1 is done")
    [problem] = trio.events(value, "problem")
    assert problem["device"] == "d1" and sentence in problem["message"]
    shares = {event["device"]: event.get("weight") for event in trio.events(value, "device")}
    assert shares == {"d0": pytest.approx(40 / 120), "d1": None, "d2": pytest.approx(80 / 120)}
    assert value == "nan" or "RuntimeError" in (trio.folder / f"runs/{value}/logs/run.log").read_text()
    behave(trio, "d1", None)
    assert trio.run(value)[0] == 0
    assert trio.events(value, "round")[-1]["clients_answered"] == 3


def test_when_all_devices_diverge_the_model_they_began_from_is_named(trio):
    assert trio.run("diverged")[0] == 0
    for device in trio.devices:
        behave(trio, device, "nan")
    code, sentence = trio.run("diverged")
    assert code == 1 and all(f"{device} sent an update with NaN" in sentence for device in trio.devices)
    path = checkpoints.path_of(trio.folder / "runs/diverged/checkpoints", 1)
    assert "the model of round 1, which may be what is wrong" in sentence and f"remove {path}" in sentence
    assert trio.events("diverged", "round")[-1]["round"] == 1


def test_a_model_that_no_device_can_score_may_itself_be_wrong(trio):
    for device in trio.devices:
        behave(trio, device, "lost")
    assert trio.run("lost")[0] == 0
    *devices, last = [event["message"] for event in trio.events("lost", "problem")]
    assert len(devices) == 3 and all("loss = nan, which is not a finite number" in message for message in devices)
    assert last == "the model of round 1 itself may be what is wrong: no device's loss is finite"


@pytest.mark.parametrize("part", ["client", "trainer"])
def test_a_device_killed_in_the_middle_of_a_round_is_left_out(trio, part):
    behave(trio, "d2", "slow")
    run = trio.begin(f"killed-{part}", rounds=2)
    trio.wait_busy("d2")
    trio.signal("d2", part)
    behave(trio, "d2", None)
    trio.start()
    assert run.wait(fleet.PATIENCE) == 0
    answered = [event["clients_answered"] for event in trio.events(f"killed-{part}", "round")]
    assert answered[0] == 2
    assert trio.events(f"killed-{part}", "problem")[0]["device"] == "d2"
    assert trio.run(f"killed-{part}")[0] == 0
    last = trio.events(f"killed-{part}", "round")[-1]
    assert (last["clients_answered"], last["round"]) == (3, 3)


def test_a_straggler_is_cut_at_the_deadline_and_comes_back(trio):
    behave(trio, "d0", "slow")
    assert trio.run("late", round_timeout=10) == (0, "round 1 is done")
    event = trio.events("late", "device")[0]
    assert (event["device"], event["status"]) == ("d0", "late") and "within 10 s" in event["reason"]
    trio.wait_idle("d0")
    behave(trio, "d0", None)
    assert trio.run("late")[0] == 0
    assert trio.events("late", "round")[-1]["clients_answered"] == 3


def test_a_device_that_hangs_is_left_out(trio):
    trio.signal("d1", "client", signal.SIGSTOP)
    try:
        assert trio.run("hung", round_timeout=10)[0] == 0
    finally:
        trio.signal("d1", "client", signal.SIGCONT)
    assert [event["status"] for event in trio.events("hung", "device")] == ["ok", "left-out", "ok"]


def test_a_server_killed_in_the_middle_of_a_round_loses_no_finished_round(trio):
    assert trio.run("server")[0] == 0
    behave(trio, "d0", "slow")
    run = trio.begin("server", rounds=2)
    trio.wait_busy("d0")
    trio.signal("server", "server")
    assert "the server ended in the middle of the run" in run.communicate(timeout=fleet.PATIENCE)[1]
    trio.wait_idle("d0")
    behave(trio, "d0", None)
    trio.start()
    assert trio.run("server") == (0, "round 2 is done")
    assert [event["round"] for event in trio.events("server", "round")] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_stops_on_all_devices(trio, number):
    experiment = f"stopped-{number.name}"
    assert trio.run(experiment)[0] == 0
    for device in trio.devices:
        behave(trio, device, "slow")
    run = trio.begin(experiment, rounds=5)
    for device in trio.devices:
        trio.wait_busy(device)
    run.send_signal(number)
    assert run.wait(fleet.PATIENCE) in (130, -9)
    for device in trio.devices:
        trio.wait_idle(device)
        behave(trio, device, None)
    fleet.wait_until(lambda: trio.events(experiment, "run-ended")[1:], fleet.PATIENCE, "the run's end")
    assert trio.events(experiment, "run-ended")[-1]["status"] == "stopped"
    assert trio.run(experiment) == (0, "round 2 is done")


def test_too_few_devices_end_the_run_with_their_names(trio):
    trio.signal("d1", "client")
    code, sentence = trio.run("few", min_clients=3, wait_clients=1)
    assert code == 1
    assert "2 of 3 devices connected within 1 s" in sentence and "missing: d1" in sentence
    code, sentence = trio.run("fewer", wait_clients=5, weights={"d0": 1, "d1": 1, "d2": 0})
    assert (code, sentence) == (0, "round 1 is done")
    [waiting] = trio.events("fewer", "waiting")
    assert waiting["devices"] == ["d1"] and waiting["message"].endswith("s for d1 (not connected, or has not answered)")
    [left_out] = trio.events("fewer", "problem")
    assert left_out["message"] == "d1 is not connected, or does not answer: it is left out"
    [done] = trio.events("fewer", "round")
    assert [done[f"clients_{what}"] for what in ("wanted", "asked", "answered")] == [2, 1, 1]


def test_devices_of_weight_0_alone_are_told_to_be_so(trio):
    trio.signal("d2", "client")
    code, sentence = trio.run("weightless", weights={"d0": 0, "d1": 0, "d2": 1}, wait_clients=1)
    assert code == 1 and "the devices that can take part in round 1, d0, d1, have fl_weight 0" in sentence


def test_weights_are_checked_before_the_first_round(trio):
    code, sentence = trio.run("unfair", weights={"d0": -1, "d1": "examples", "d2": "examples"})
    assert code == 1 and "fl_weight of d0" in sentence
    assert not trio.events("unfair", "round")


def test_a_device_with_other_task_code_is_told_to_deploy(trio):
    other = trio.folder / "other.py"
    other.write_text(TASK + "\n# another\n")
    trainer = trio.folder / "d2/trainer.json"
    before = trainer.read_text()
    trainer.write_text(json.dumps(json.loads(before) | {"task": str(other)}))
    trio.signal("d2", "trainer")
    trio.start()
    try:
        assert trio.run("mixed")[0] == 0
    finally:
        trainer.write_text(before)
        trio.signal("d2", "trainer")
    event = trio.events("mixed", "device")[2]
    assert event["status"] == "left-out" and "run deploy.yml" in event["reason"]


def test_a_device_with_another_deployments_data_or_whose_last_deployment_failed_is_left_out(trio):
    """d1 has the data of an earlier deployment, d2's last one failed; d0 is as the manifest says."""
    for host in ("server", *trio.devices):
        configure(trio, host, shard=True)
    try:
        trio.start()
        found = {host: trio.trainer(host).health()["fingerprint"] for host in ("server", *trio.devices)}
        assert len({*found.values()}) == 4
        dataset = trio.config("")["dataset"] | {"fingerprints": {**found, "d1": "0123456789abcdef"}}
        code, said = trio.run("strayed", dataset=dataset, undeployed=["d2"])
        assert (code, said) == (0, "round 1 is done")
        events = trio.events("strayed", "device")
        assert [event["status"] for event in events] == ["ok", "left-out", "left-out"]
        both = f"{found['d1']}, but this run is of 0123456789abcdef"
        assert events[1]["reason"] == f"d1 has data of another deployment ({both}): run deploy.yml"
        assert events[2]["reason"] == "d2 is left out: its last deployment failed, or there was none: run deploy.yml"
        assert trio.events("strayed", "problem")[0]["message"] == events[2]["reason"]
        assert all("heldout_loss" not in event for event in events[1:])

        with pytest.raises(TrainerError, match="d1 has data of another deployment"):
            trio.trainer("d1").call("train", initial(trio), {**trio.task_config(1), "fingerprint": "other"})
        dataset["fingerprints"] = {**found, "server": None}
        code, said = trio.run("strayed-server", dataset=dataset)
        assert code == 1 and "the server's trainer made no model: server has data of another deployment" in said
        code, said = trio.run("too-few", undeployed=["d2"], min_clients=3)
        assert code == 1 and "2 of 3 devices connected" in said and "missing: d2 (to be deployed). Run" in said, said
        code, said = trio.run("nobody", undeployed=trio.devices)
        assert (code, said) == (1, "the last deployment of every device failed, or there was none: run deploy.yml")
    finally:
        for host in ("server", *trio.devices):
            configure(trio, host, shard=False)


def configure(trio, host, **changes):
    path = trio.folder / host / "trainer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    trio.signal(host, "trainer")


def test_devices_that_number_their_classes_differently_are_refused(trio):
    for device, classes in {"d0": ["cat", "dog"], "d1": ["dog"]}.items():
        images.write(trio.folder / device / "photos", classes, 4)
        configure(trio, device, data="photos")
    try:
        trio.start()
        code, sentence = trio.run("classes")
        assert code == 1 and "a label means one class on d0 and another on d1" in sentence
        assert "['cat', 'dog'] and ['dog']: put the same classes.txt" in sentence
        assert trio.events("classes", "round") == []
        (trio.folder / "d1/photos/classes.txt").write_text("cat\ndog\n")
        trio.signal("d1", "trainer")
        trio.start()
        assert trio.run("one-list", dataset={"shape": [8, 8, 3], "classes": ["cat", "dog"]})[0] == 0
        assert [event["status"] for event in trio.events("one-list", "device")] == ["ok", "ok", "failed"]

        behave(trio, "d0", "slow")
        dataset = {"shape": [8, 8, 3], "classes": ["cat", "dog"]}
        run = trio.begin("late-list", rounds=2, dataset=dataset, weights={"d0": 1, "d1": 1, "d2": 0})
        trio.wait_busy("d0")
        fleet.wait_until(lambda: not trio.trainer("d1").health()["busy"], fleet.PATIENCE, "d1 to have trained")
        (trio.folder / "d1/photos/classes.txt").write_text("dog\ncat\n")
        trio.signal("d1", "trainer")
        trio.start()
        behave(trio, "d0", None)
        assert run.wait(fleet.PATIENCE) == 0
        events = [event for event in trio.events("late-list", "device") if event["device"] == "d1"]
        assert events[1]["status"] == "left-out", events
        assert "a label means one class on d0 and another on d1" in events[1]["reason"]
        assert [event["clients_answered"] for event in trio.events("late-list", "round")][1] == 1
    finally:
        for device in ("d0", "d1"):
            configure(trio, device, data="data")


def test_a_device_that_calls_itself_another_is_told_so_and_takes_no_part(trio):
    stranger = trio.folder / "d0/stranger.json"
    stranger.write_text(json.dumps({"name": "stranger", "server": trio.address, "trainer": "trainer.sock"}))
    with fleet.running("client", stranger):
        log = stranger.with_suffix(".log")
        fleet.wait_until(lambda: "joined" in log.read_text(), fleet.PATIENCE, "it to be let in, by its certificate")
        code, sentence = trio.run("liar", weights={"d0": 1})
        assert code == 1 and "missing: d0" in sentence, sentence


def test_labels_that_the_model_has_no_place_for_end_the_run_and_do_no_harm(trio):
    two_classes = {"shape": list(fleet.SHAPE), "classes": ["0", "1"]}
    code, sentence = trio.run("labels", dataset=two_classes)
    assert code == 1 and all(f"{device} gave no update" in sentence for device in trio.devices)
    assert trio.events("labels", "round") == []
    assert trio.run("after-labels")[0] == 0
    assert trio.events("after-labels", "round")[0]["clients_answered"] == 3


def test_labels_that_the_model_has_no_place_for_are_told_in_plain_words(trio):
    _, sentence = trio.run("wide", dataset={"shape": list(fleet.SHAPE), "classes": ["0", "1"]})
    assert "label" in sentence and "Error" not in sentence and ".." not in sentence
