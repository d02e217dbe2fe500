"""Rounds of some devices, that do not wait for all, or are tried again; on a fleet of real processes."""

import numpy as np
import pytest

import fleet
from flowerbed import server_socket, tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds import steps

# The default task, held up in a round as long as a file of that name lies in the device's folder, such as train-2. With
# a file `pace` each step takes so many seconds more; with one called `mute` it does not say how many steps it did.
TASK = (
    fleet.TASK.read_text()
    + """
import os, time

_train, _evaluate, _of_a_round = train, evaluate, _round


def _round(count, size, config):
    for batch in _of_a_round(count, size, config):
        time.sleep(float(open("pace").read()) if os.path.exists("pace") else 0)
        yield batch


def _held_up(function, config):
    while os.path.exists("%s-%d" % (function, config["round"])):
        time.sleep(0.02)


def train(model, data, config):
    _held_up("train", config)
    measured = _train(model, data, config)
    if os.path.exists("mute"):
        measured.pop("steps", None)
    return measured


def evaluate(model, data, config):
    _held_up("evaluate", config)
    return _evaluate(model, data, config)
"""
)
SIZES = [40, 60, 80]
SOON = {"enough": 2, "grace": 0}


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("w")
    (folder / "task.py").write_text(TASK)
    trio = fleet.Fleet(folder, SIZES, folder / "task.py", patience=400)
    yield trio
    trio.stop()


@pytest.fixture(autouse=True)
def whole(trio):
    """Every test begins with a fleet that is whole, and with nobody held up."""
    for pattern in ("d?/*-[0-9]", "d?/pace", "d?/mute"):
        for path in trio.folder.glob(pattern):
            path.unlink()
    trio.start()


def hold(trio, device, what):
    (trio.folder / device / what).touch()


def release(trio, device, what):
    (trio.folder / device / what).unlink()


def model(trio, experiment, number):
    folder = trio.folder / "runs" / experiment / "checkpoints"
    return checkpoints.load(checkpoints.path_of(folder, number)).model


def devices(trio, experiment, number):
    return {event["device"]: event for event in trio.events(experiment, "device") if event["round"] == number}


def wait_round(trio, experiment, number):
    fleet.wait_until(lambda: len(trio.events(experiment, "round")) >= number, fleet.PATIENCE, f"round {number}")


def test_a_round_goes_on_without_the_rest_and_a_device_that_was_cut_is_in_the_next_one(trio):
    hold(trio, "d0", "train-1")
    assert trio.run("dropped", rounds=2, **SOON) == (0, "rounds 1 to 2 are done")
    first, second = devices(trio, "dropped", 1), devices(trio, "dropped", 2)
    assert first["d0"]["status"] == "late" and "weight" not in first["d0"]
    assert first["d0"]["reason"].startswith("d0 gave no update: it had not answered after ")
    assert [first[device]["weight"] for device in ("d1", "d2")] == pytest.approx([3 / 7, 4 / 7])
    assert {event["status"] for event in second.values()} <= {"ok", "late"}
    assert trio.events("dropped", "problem") == []
    assert trio.events("dropped", "round")[0]["clients_answered"] == 2


def test_an_evaluation_does_not_wait_for_the_rest_either(trio):
    for device in ("d1", "d2"):
        hold(trio, device, "evaluate-1")
    assert trio.run("scored", weights={"d0": 1, "d1": 0, "d2": 0}, enough=1, grace=0) == (0, "round 1 is done")
    told = devices(trio, "scored", 1)
    assert "heldout_reason" not in told["d0"] and "heldout_loss" in told["d0"]
    for device in ("d1", "d2"):
        assert told[device]["heldout_reason"].startswith(f"{device} gave no score: it had not answered after")
    assert trio.events("scored", "problem") == []


def test_a_late_answer_is_carried_into_the_next_round_and_counts_less(trio):
    hold(trio, "d0", "train-1")
    hold(trio, "d1", "train-2")
    run = trio.begin("carried", rounds=2, late="carry", **SOON)
    wait_round(trio, "carried", 1)
    status = server_socket.status(str(trio.folder / "server/control.sock"), trio.devices)["run"]
    assert status["round"] == 1 and status["missing"]["d0"].startswith("late: d0 gave no update: it had not answered")
    trio.wait_busy("d1")
    release(trio, "d0", "train-1")
    trio.wait_idle("d0")
    release(trio, "d1", "train-2")
    assert run.wait(fleet.PATIENCE) == 0
    first, second = devices(trio, "carried", 1), devices(trio, "carried", 2)
    assert first["d0"]["status"] == "late" and first["d0"]["reason"].endswith("its answer is for a later round")
    assert (second["d0"]["status"], second["d0"]["staleness"]) == ("carried", 1)
    assert second["d0"]["reason"] == "d0 answered round 1 late: it counts 0.707 times"
    assert [event["clients_answered"] for event in trio.events("carried", "round")] == [2, 3]
    assert trio.events("carried", "problem") == []

    raw = np.array([40 * steps.staleness(1), 60, 80])
    shares = raw / raw.sum()
    assert [second[device]["weight"] for device in trio.devices] == pytest.approx(list(shares))
    packed = trio.trainer("server").call("initial", b"", trio.task_config(0))[0]
    start, now = tensors.unpack(packed), model(trio, "carried", 1)
    late = tensors.unpack(trio.trainer("d0").call("train", packed, trio.task_config(1))[0])
    others = [
        tensors.unpack(trio.trainer(device).call("train", tensors.pack(now), trio.task_config(2))[0])
        for device in ("d1", "d2")
    ]
    for name, got in model(trio, "carried", 2).items():
        learnt = name.endswith((".weight", ".bias"))
        step = now[name] + (late[name] - start[name]) if learnt else late[name]
        states = [step, *(state[name] for state in others)]
        wanted = sum(share * state.astype(np.float64) for share, state in zip(shares, states, strict=True))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_an_answer_that_was_to_be_carried_is_said_to_be_lost_with_the_run(trio):
    hold(trio, "d0", "train-1")
    for device in ("d1", "d2"):
        hold(trio, device, "train-2")
    run = trio.begin("lost", rounds=3, late="carry", **SOON)
    wait_round(trio, "lost", 1)
    trio.wait_busy("d1")
    trio.signal("server", "server")
    assert run.wait(fleet.PATIENCE) == 1
    for device in trio.devices:
        trio.wait_idle(device)
    release(trio, "d1", "train-2")
    release(trio, "d2", "train-2")
    trio.start()
    assert trio.run("lost", late="carry", **SOON) == (0, "round 2 is done")
    [problem] = trio.events("lost", "problem")
    assert problem["message"] == (
        "the answer of d0 to round 1, which was to be taken into a later one, was lost with the run that waited for it"
    )
    assert devices(trio, "lost", 2)["d0"]["status"] in ("ok", "late")


def test_one_device_alone_is_waited_for(trio):
    alone = {"weights": {"d0": 1, "d1": 0, "d2": 0}, "late": "carry", "enough": 1, "grace": 0}
    assert trio.run("alone", rounds=2, **alone) == (0, "rounds 1 to 2 are done")
    assert devices(trio, "alone", 2)["d0"]["weight"] == 1


def test_a_round_with_too_few_answers_is_tried_again_and_then_the_run_ends(trio):
    assert trio.run("again")[0] == 0
    for device in trio.devices:
        hold(trio, device, "train-2")
    run = trio.begin("again", rounds=2, round_timeout=3)
    fleet.wait_until(lambda: trio.events("again", "problem"), fleet.PATIENCE, "the first try to fail")
    fleet.wait_until(
        lambda: "Round 2 is tried again (1 of 2)" in trio.events("again", "problem")[-1]["message"], fleet.PATIENCE,
        "a second try",
    )  # fmt: skip
    for device in trio.devices:
        release(trio, device, "train-2")
    assert run.wait(fleet.PATIENCE) == 0
    assert [event["round"] for event in trio.events("again", "round")] == [1, 2, 3]
    for device in trio.devices:
        hold(trio, device, "train-4")
    code, sentence = trio.run("again", round_timeout=1, round_retries=1)
    assert code == 1 and sentence.startswith("0 of 3 devices gave a usable update in round 4, but fl_min_clients is 1:")
    assert sentence.endswith("Round 4 was tried 2 times. Round 3 is the last one finished")
    assert all(f"{device} gave no update: it did not answer within 1 s" in sentence for device in trio.devices)


def test_devices_that_vanish_and_come_back_cost_no_round(trio):
    hold(trio, "d0", "train-1")
    run = trio.begin("vanished", rounds=1, min_clients=3, wait_clients=fleet.PATIENCE)
    trio.wait_busy("d0")
    trio.signal("d0", "client")
    trio.signal("d2", "client")
    release(trio, "d0", "train-1")
    trio.start()
    assert run.wait(fleet.PATIENCE) == 0
    assert [event["clients_answered"] for event in trio.events("vanished", "round")] == [3]
    assert "Round 1 is tried again (1 of 2)" in trio.events("vanished", "problem")[-1]["message"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"late": "carry", "strategy": "FedMedian"}, "fl_late is carry, but fl_strategy is FedMedian, which takes no"),
        ({"target_seconds": 2, "strategy": "QFedAvg"}, "fl_target_seconds is 2, but fl_strategy is QFedAvg, which"),
        ({"enough": 0}, "fl_enough is 0, but must be all, a whole number"),
        ({"grace": "x"}, "fl_grace is 'x', but must be seconds"),
        ({"min_clients": 2, "chosen": ["d0"]}, "1 of 1 devices train in a round (devices, fl_weight), but fl_min_cl"),
        ({"min_clients": 2, "fraction": 0.5}, "1 of 3 devices train in a round (devices, fl_weight), but fl_min_cl"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_begins_nothing(trio, changes, sentence):
    code, said = trio.run("senseless", **changes)
    assert code == 1 and said.startswith(sentence)
    assert not (trio.folder / "runs/senseless/checkpoints").exists()


def test_a_run_of_some_devices(trio):
    assert trio.run("some", chosen=["d0", "d2"], undeployed=["d1"], min_clients=2) == (0, "round 1 is done")
    assert {name: event["weight"] for name, event in devices(trio, "some", 1).items()} == {
        "d0": pytest.approx(1 / 3), "d2": pytest.approx(2 / 3)
    }  # fmt: skip
    assert trio.events("some", "round")[0]["clients_wanted"] == 2 and trio.events("some", "problem") == []
    assert trio.run("some", rounds=1)[0] == 0
    assert len(devices(trio, "some", 2)) == 3 and trio.events("some", "fleet") == []


def test_a_fraction_is_drawn_by_the_seed_and_the_round_also_when_a_run_goes_on(trio):
    def drawn(experiment):
        return [
            [name for name, event in devices(trio, experiment, number).items() if event["status"] == "ok"]
            for number in (1, 2, 3)
        ]

    assert trio.run("at-once", rounds=3, fraction=0.4, seed=1)[0] == 0
    for rounds in (1, 2):
        assert trio.run("in-turn", rounds=rounds, fraction=0.4, seed=1)[0] == 0
    assert drawn("at-once") == drawn("in-turn") and all(len(names) == 1 for names in drawn("at-once"))
    assert len({name for names in drawn("at-once") for name in names}) > 1
    one, other = (model(trio, experiment, 3) for experiment in ("at-once", "in-turn"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    reasons = [event["reason"] for event in devices(trio, "at-once", 1).values() if event["status"] == "skipped"]
    assert len(reasons) == 2 and all("the draw (devices, 0.4 of them) did not choose d" in each for each in reasons)
    [trained] = drawn("at-once")[0]
    trio.signal(trained, "client")
    assert trio.run("replaced", fraction=0.4, seed=1, optional=[trained])[0] == 0
    told = devices(trio, "replaced", 1)
    assert told[trained]["status"] == "absent" and [event["status"] for event in told.values()].count("ok") == 1


def test_a_device_whose_absence_is_no_news(trio):
    trio.signal("d1", "client")
    assert trio.run("optional", optional=["d1"], wait_clients=600) == (0, "round 1 is done")
    told = devices(trio, "optional", 1)["d1"]
    assert (told["status"], told["reason"]) == ("absent", "d1 is not connected, or does not answer")
    [done] = trio.events("optional", "round")
    assert done["clients_wanted"] == done["clients_answered"] == 2
    assert trio.events("optional", "problem") == trio.events("optional", "waiting") == []
    hold(trio, "d0", "train-2")
    run = trio.begin("optional", optional=trio.devices, wait_clients=600)
    trio.wait_busy("d0")
    trio.signal("d0", "client")
    assert run.wait(fleet.PATIENCE) == 0
    assert trio.events("optional", "problem") == [] and devices(trio, "optional", 2)["d0"]["status"] == "failed"


def test_where_all_may_be_absent_as_many_as_are_needed_are_waited_for(trio):
    for device in trio.devices:
        trio.signal(device, "client")
    run = trio.begin("nobody", optional=trio.devices, wait_clients=600)
    fleet.wait_until(lambda: trio.events("nobody", "waiting"), fleet.PATIENCE, "it to say whom it waits for")
    trio.start()
    assert run.wait(fleet.PATIENCE) == 0
    assert trio.events("nobody", "problem") == []


def test_steps_are_fitted_to_the_speed_of_each_device_and_updates_are_normalised_by_them(trio):
    for device, pace in zip(trio.devices, ("0.01", "0.03", "0.1"), strict=True):
        (trio.folder / device / "pace").write_text(pace)
    assert trio.run("fitted", rounds=2, target_seconds=2) == (0, "rounds 1 to 2 are done")
    first, second = devices(trio, "fitted", 1), devices(trio, "fitted", 2)
    assert [first[device]["steps"] for device in trio.devices] == [3, 4, 5]  # an epoch in batches of 16
    counts = [second[device]["steps"] for device in trio.devices]
    assert counts == [second[device]["steps_asked"] for device in trio.devices] and counts[0] > counts[1] > counts[2]
    assert all("steps" not in event["metrics"] for event in second.values())

    now = model(trio, "fitted", 1)
    for device in trio.devices:
        (trio.folder / device / "pace").unlink()
    states = [
        tensors.unpack(
            trio.trainer(device).call("train", tensors.pack(now), {**trio.task_config(2), "steps": count})[0]
        )
        for device, count in zip(trio.devices, counts, strict=True)
    ]
    shares = np.array(SIZES) / sum(SIZES)
    effective = float(shares @ counts)
    for name, got in model(trio, "fitted", 2).items():
        if name.endswith((".weight", ".bias")):
            steps_of = [
                (state[name].astype(np.float64) - now[name]) / c for state, c in zip(states, counts, strict=True)
            ]
            wanted = now[name] + effective * sum(p * step for p, step in zip(shares, steps_of, strict=True))
        else:
            wanted = sum(p * state[name].astype(np.float64) for p, state in zip(shares, states, strict=True))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)

    assert trio.run("fitted", target_seconds=2)[0] == 0  # goes on with what was measured
    third = devices(trio, "fitted", 3)
    assert all(third[device]["steps"] == third[device]["steps_asked"] for device in trio.devices)
    assert third["d0"]["steps"] > 3
    assert trio.events("fitted", "problem") == []


def test_a_task_that_does_not_say_how_many_steps_it_did_is_not_fitted(trio):
    for device in trio.devices:
        (trio.folder / device / "mute").touch()
    assert trio.run("mute", rounds=2, target_seconds=2)[0] == trio.run("plain", rounds=2)[0] == 0
    [problem] = trio.events("mute", "problem")
    assert "train of the task does not return the number of its steps on d0, d1, d2" in problem["message"]
    one, other = (model(trio, experiment, 2) for experiment in ("mute", "plain"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
