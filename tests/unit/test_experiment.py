"""An experiment's folder: what it records, refuses, and survives."""

import json
import shutil
import threading

import numpy as np
import pytest

from disk import full_disk
from flowerbed import tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds import lock, loop
from flowerbed.rounds.checkpoint import Checkpoint
from flowerbed.rounds.config import RunConfig, RunFailed, RunStopped
from flowerbed.rounds.experiment import Experiment

MODEL = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "counter": np.array(3)}


def run(folder, **changes):
    content = {
        "experiment": "trial", "directory": str(folder), "rounds": 1, "link": "stream", "task": "task.py",
        "trainer": "", "weights": {"d0": "examples"}, "config": {"learning_rate": 0.001},
        "dataset": {"name": "digits", "alpha": 0.5},
    }  # fmt: skip
    return RunConfig.parse(content | changes)


def finished(number, accuracy=0.5):
    model = {name: array + number for name, array in MODEL.items()}
    events = [
        {"event": "device", "round": number, "device": "d0"},
        {"event": "round", "round": number, "accuracy": accuracy},
    ]
    return Checkpoint(number, model, {"m/weight": model["weight"]}, '{"m": "dict"}', events)


def events(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_an_experiment_goes_on_from_its_newest_checkpoint(tmp_path):
    experiment = Experiment(run(tmp_path))
    assert experiment.open(MODEL).round == 0
    for number in (1, 2):
        experiment.save(finished(number))
    found = Experiment(run(tmp_path)).open(MODEL)
    assert (found.round, found.memory_rest) == (2, '{"m": "dict"}')
    np.testing.assert_array_equal(found.model["weight"], MODEL["weight"] + 2)
    np.testing.assert_array_equal(found.memory["m/weight"], MODEL["weight"] + 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "round-00001.safetensors", "round-00002.safetensors",
    ]  # fmt: skip


def test_an_experiment_keeps_its_id_until_it_is_begun_anew(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    assert Experiment(run(tmp_path)).id != experiment.id, "nothing was finished, so this is round 1 again"
    experiment.save(finished(1))
    assert Experiment(run(tmp_path)).id == Experiment(run(tmp_path, seed=1)).id == experiment.id
    configuration = tmp_path / "configuration.json"
    configuration.write_text(json.dumps({**json.loads(configuration.read_text()), "id": None}))  # an older one's
    older = Experiment(run(tmp_path))
    assert older.open(MODEL).round == 1
    assert Experiment(run(tmp_path)).id == older.id != experiment.id
    assert events(tmp_path, "configuration") == []
    shutil.rmtree(tmp_path)
    assert Experiment(run(tmp_path)).id != older.id


def test_best_and_last_model_are_kept_in_the_model_s_own_types(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    for number, accuracy in ((1, 0.4), (2, 0.9), (3, 0.6)):
        done = finished(number, accuracy)
        done.model["counter"] = np.array(2.6)  # a mean of counters
        experiment.save(done)
    load = pytest.importorskip("safetensors.numpy").load_file
    assert load(tmp_path / "model/last.safetensors")["counter"] == np.array(3)
    np.testing.assert_array_equal(load(tmp_path / "model/best.safetensors")["weight"], MODEL["weight"] + 2)
    assert checkpoints.newest(tmp_path / "checkpoints")[0].model["counter"] == 2.6


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    for number in (1, 2):
        experiment.save(finished(number))
    newest = tmp_path / "checkpoints/round-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    assert Experiment(run(tmp_path)).open(MODEL).round == 1
    assert "round-00002.safetensors cannot be read" in events(tmp_path, "problem")[0]["message"]
    assert newest.exists()


@pytest.mark.parametrize(
    ("model", "changes", "difference"),
    [
        (MODEL, {"dataset": {"name": "digits", "alpha": 0.1}}, r"dataset.alpha was 0.5 and is now 0.1"),
        ({**MODEL, "weight": np.zeros((4, 3), np.float32)}, {}, r"model.weight was .*2, 3.* and is now .*4, 3"),
    ],
)
def test_another_model_or_data_set_is_refused_with_the_difference(tmp_path, model, changes, difference):
    Experiment(run(tmp_path)).open(MODEL)
    with pytest.raises(RunFailed, match=difference):
        Experiment(run(tmp_path, **changes)).open(model)


def test_an_experiment_that_began_without_fingerprints_of_devices_goes_on(tmp_path):
    Experiment(run(tmp_path)).open(MODEL)
    dataset = {"name": "digits", "alpha": 0.5, "fingerprints": {"d0": "0123456789abcdef"}, "warnings": ["d0 is small"]}
    assert Experiment(run(tmp_path, dataset=dataset)).open(MODEL).round == 0
    with pytest.raises(RunFailed, match="dataset.alpha was 0.5 and is now 0.1"):
        Experiment(run(tmp_path, dataset={**dataset, "alpha": 0.1})).open(MODEL)


def test_other_settings_may_change_and_are_recorded(tmp_path):
    Experiment(run(tmp_path)).open(MODEL)
    Experiment(run(tmp_path, config={"learning_rate": 0.1}, rounds=7)).open(MODEL)
    [change] = events(tmp_path, "configuration")
    assert change["changes"] == {"config": [{"learning_rate": 0.001}, {"learning_rate": 0.1}]}


def test_what_a_crash_left_out_of_the_events_is_added(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    experiment.save(finished(1))
    checkpoints.save(tmp_path / "checkpoints", finished(2))  # and then the power failed, in the middle of a line
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "ro')
    Experiment(run(tmp_path)).open(MODEL)
    whole = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["round"] for line in whole if '"event": "round"' in line] == [1, 2]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    with full_disk(tmp_path, 300_000) as disk:
        experiment = Experiment(run(disk))
        experiment.open(MODEL)
        experiment.save(finished(1))
        large = finished(2)
        large.model["weight"] = np.zeros((1000, 1000), np.float32)
        with pytest.raises(RunFailed, match="round 2 could not be saved .*No space left.* round 1 is whole: make room"):
            experiment.save(large)
        assert [path.name for path in (disk / "checkpoints").iterdir()] == ["round-00001.safetensors"]
        assert Experiment(run(disk)).open(MODEL).round == 1


def test_an_experiment_has_one_run_at_a_time(tmp_path):
    with lock.hold(tmp_path):
        assert lock.held(tmp_path)
        with pytest.raises(RunFailed, match="another run of experiment"), lock.hold(tmp_path):
            pass
    assert not lock.held(tmp_path)


def test_an_experiment_that_holds_a_poisoned_checkpoint_goes_on_from_the_last_good_one(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    experiment.save(finished(1))
    poisons = {2: ("model", np.inf), 3: ("model", 3e38), 4: ("memory", np.nan)}
    for number, (part, value) in poisons.items():
        poisoned = finished(number)
        arrays = getattr(poisoned, part)
        first = next(iter(arrays))
        arrays[first] = np.full_like(arrays[first], value)
        checkpoints.save(tmp_path / "checkpoints", poisoned)
    assert Experiment(run(tmp_path)).open(MODEL).round == 1
    messages = [event["message"] for event in events(tmp_path, "problem")]
    assert [message.rpartition(": ")[2] for message in messages] == ["the run goes on after round 1"] * 3
    reasons = [message.partition("because it ")[2].rpartition(":")[0] for message in messages]
    assert reasons == [
        "holds NaN or infinite values in the strategy's m/weight",
        "holds values beyond 1.8e+19 (whose squares no float32 holds) in weight",
        "holds NaN or infinite values (as float32) in weight",
    ]


def test_what_is_infinite_in_the_first_model_is_no_poison(tmp_path):
    initial = {**MODEL, "mask": np.array([0, -np.inf], np.float32)}
    experiment = Experiment(run(tmp_path))
    experiment.open(initial)
    done = finished(1)
    done.model["mask"] = initial["mask"]
    experiment.save(done)
    assert Experiment(run(tmp_path)).open(initial).round == 1
    assert events(tmp_path, "problem") == []


def test_rounds_that_are_done_are_not_done_again_from_the_first_without_a_word(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    for number in (1, 2):
        experiment.save(finished(number))
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(
        RunFailed, match=r"metrics.jsonl says that round 2 of experiment trial is done, but .*checkpoints"
    ):
        Experiment(run(tmp_path)).open(MODEL)
    checkpoints.path_of(tmp_path / "checkpoints", 2).write_bytes(b"junk")
    with pytest.raises(RunFailed, match="cannot be read .*: there is no older one; put one back, or choose another"):
        Experiment(run(tmp_path)).open(MODEL)


def test_the_latest_checkpoints_are_kept_and_the_best_one_s_besides(tmp_path):
    experiment = Experiment(run(tmp_path, keep_checkpoints=2))
    experiment.open(MODEL)
    for number, accuracy in enumerate([0.1, 0.9, 0.3, 0.4, 0.5], 1):
        experiment.save(finished(number, accuracy))
    there = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert there == [f"round-0000{number}.safetensors" for number in (2, 4, 5)]
    assert Experiment(run(tmp_path)).open(MODEL).round == 5


def judged(number, heldout, test=None, devices=2):
    done = finished(number, test)
    done.events = [{"event": "device", "round": number, "device": f"d{index}"} for index in range(3)] + done.events[1:]
    for event in done.events[:devices]:
        event["heldout_accuracy"] = heldout
    done.events[-1]["heldout_accuracy"] = heldout
    return done


@pytest.mark.parametrize(
    ("rounds", "best", "by"),
    [
        ([judged(1, 0.9), judged(2, 0.1, test=0.2), judged(3, 0.99)], "2", "test"),
        ([judged(1, 0.5), judged(2, 0.9, devices=1), judged(3, 0.6)], "3", "held-out"),
        ([judged(1, 0.1, test=0.5), judged(2, 0.9, test=0.4)], "1", "test"),
        ([judged(1, 0.9, devices=1)], None, None),
        ([judged(1, 1e6), judged(2, 0.3)], "2", "held-out"),
    ],
)  # fmt: skip
def test_the_best_model_is_chosen_by_the_test_set_or_by_what_several_devices_hold_out(tmp_path, rounds, best, by):
    experiment = Experiment(run(tmp_path, weights=dict.fromkeys(["d0", "d1", "d2"], "examples")))
    experiment.open(MODEL)
    for done in rounds:
        experiment.save(done)
    path = tmp_path / "model/best.safetensors"
    about = checkpoints.about(path) if path.exists() else {}
    assert (about.get("round"), about.get("chosen_by")) == (best, by)


@pytest.mark.parametrize("weights", [{"d0": "examples"}, {"d0": 1, "d1": 0, "d2": 0}])
def test_a_device_that_alone_counts_chooses_the_best_model(tmp_path, weights):
    experiment = Experiment(run(tmp_path, weights=weights))
    experiment.open(MODEL)
    experiment.save(judged(1, 0.9, devices=1))
    assert checkpoints.about(tmp_path / "model/best.safetensors")["chosen_by"] == "held-out"


@pytest.mark.parametrize(
    ("then", "now", "best"),
    [
        ({"accuracy": 0.7}, judged(2, 0.1, test=0.6), "1"),
        ({"accuracy": 0.7}, judged(2, 0.1, test=0.8), "2"),
        ({"accuracy": 0.7}, judged(2, 0.8), "1"),
        ({"accuracy": None, "heldout_accuracy": 0.7}, judged(2, 0.1, test=0.6), "2"),
        ({"accuracy": None, "heldout_accuracy": 0.7}, judged(2, 0.6), "1"),
        ({"accuracy": None, "heldout_accuracy": 0.7}, judged(2, 0.8), "2"),
        (None, judged(2, 0.1, test=0.6), "2"),
        (None, judged(2, 0.6), "1"),
    ],
)  # fmt: skip
def test_what_judged_a_best_model_that_does_not_say_so_is_told_by_its_round_s_events(tmp_path, then, now, best):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    path = tmp_path / "model/best.safetensors"
    path.parent.mkdir()
    path.write_bytes(tensors.pack(MODEL, {"round": "1", "accuracy": "0.7"}))
    if then:
        experiment.events.record({"event": "round", "round": 1, **then})
    experiment.save(now)
    assert checkpoints.about(path)["round"] == best


def test_a_best_model_of_before_scores_were_shares_is_replaced(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    path = tmp_path / "model/best.safetensors"
    path.parent.mkdir()
    path.write_bytes(tensors.pack(MODEL, {"round": "1", "accuracy": "1000000.0"}))
    experiment.save(finished(2, 0.1))
    assert checkpoints.about(path)["round"] == "2"


def test_a_run_says_that_what_a_strategy_remembers_is_of_other_tensors(tmp_path, monkeypatch, caplog):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    done = finished(1)
    rest = json.dumps({"strategy": "FedAdam", "attributes": {"m_t": "dict"}})
    experiment.save(Checkpoint(1, done.model, {"m_t/weight": MODEL["weight"]}, rest, done.events))

    def stop(_):
        raise RunStopped

    monkeypatch.setattr(loop._Run, "_initial", lambda _: (MODEL, set()))  # no trainer, and no devices
    monkeypatch.setattr(loop._Run, "_wait_for_devices", stop)
    with pytest.raises(RunStopped):
        loop.run_rounds(None, run(tmp_path, strategy="FedAdam"), threading.Event())
    [problem] = events(tmp_path, "problem")
    assert problem["message"].startswith("what FedAdam remembers of the rounds before is of other tensors")
    assert problem["message"] in caplog.messages


def fleet(*devices, fingerprint="abc", of=None, **changes):
    """Return what a run knows of a fleet and of its shares; those in `of` have another share than the default."""
    shares = {device: {"train": 100 // len(devices), "heldout": 5} for device in devices}
    each = {device: f"share {(of or {}).get(device, device)}" for device in devices}
    dataset = {"name": "digits", "alpha": 0.5, "devices": shares, "fingerprint": f"all of {devices}, {of}"}
    dataset |= {"fingerprints": {**each, "server": "test"}, "split": fingerprint, "warnings": []} | changes
    return {"dataset": dataset, "weights": dict.fromkeys(devices, "examples")}


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (fleet("d0", "d1", "d2"), "d2 came"),
        (fleet("d0"), "d1 went"),
        (fleet("d1", "d9", "d8"), "d9, d8 came and d0 went"),
        (fleet("d0", "d1", "d2", of={"d1": "less"}), "d2 came; d1 has other examples"),
        (fleet("d0", "d1", of={"d0": 1, "d1": 2}), "d0, d1 have other examples"),
    ],
)
def test_an_experiment_goes_on_with_another_fleet_and_says_so_once(tmp_path, then, message):
    Experiment(run(tmp_path, **fleet("d0", "d1"))).open(MODEL)
    for _ in range(2):
        assert Experiment(run(tmp_path, **then)).open(MODEL).round == 0
        [event] = events(tmp_path, "fleet")
        assert event["message"] == f"the fleet is another than before: {message}"
    Experiment(run(tmp_path, **fleet("d0", "d1"))).open(MODEL)
    assert len(events(tmp_path, "fleet")) == 2, "and back again"


def test_a_fleet_of_other_devices_with_data_of_their_own_goes_on(tmp_path):
    own = {"dataset": {"name": "device"}}
    Experiment(run(tmp_path, **fleet("d0", "d1") | own)).open(MODEL)
    Experiment(run(tmp_path, **fleet("d0", "d2") | own)).open(MODEL)
    [event] = events(tmp_path, "fleet")
    assert (event["came"], event["went"], event["changed"]) == (["d2"], ["d1"], [])


def test_an_experiment_of_before_splits_were_kept_goes_on_with_the_same_one(tmp_path):
    """Its fingerprint is that of the shards as they were first, which is now kept."""
    before = fleet("d0", "d1", fingerprint=None)
    del before["dataset"]["split"], before["dataset"]["fingerprints"]
    before["dataset"]["fingerprint"] = "abc"
    Experiment(run(tmp_path, **before)).open(MODEL)
    Experiment(run(tmp_path, **fleet("d0", "d1"))).open(MODEL)
    Experiment(run(tmp_path, **fleet("d0", "d1", "d2"))).open(MODEL)
    assert [event["came"] for event in events(tmp_path, "fleet")] == [["d2"]]
    with pytest.raises(RunFailed, match='dataset.fingerprint was "abc" and is now "def". Choose'):
        Experiment(run(tmp_path, **fleet("d0", "d1", "d2", fingerprint="def"))).open(MODEL)


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (fleet("d0", "d1", "d2", fingerprint="def"), "d2 came"),
        (fleet("d0", fingerprint="def"), "d1 went"),
        (fleet("d1", "d9", "d8", fingerprint="def"), "d9, d8 came and d0 went"),
    ],
)
def test_an_experiment_whose_data_set_is_split_anew_is_refused_with_which_came_and_went(tmp_path, then, reason):
    Experiment(run(tmp_path, **fleet("d0", "d1"))).open(MODEL)
    with pytest.raises(RunFailed) as failed:
        Experiment(run(tmp_path, **then)).open(MODEL)
    sentence = f"began with another model or data set: {reason}, among which the data set is split anew. Choose"
    assert sentence in str(failed.value) and "abc" not in str(failed.value)


def test_what_else_differs_follows_the_devices(tmp_path):
    Experiment(run(tmp_path, **fleet("d0", "d1"))).open(MODEL)
    with pytest.raises(RunFailed, match=r"d2 came, .* split anew; dataset.alpha was 0.5 and is now 0.1. Choose"):
        Experiment(run(tmp_path, **fleet("d0", "d1", "d2", fingerprint="def", alpha=0.1))).open(MODEL)


@pytest.mark.parametrize("content", ["[]", "5", "null", '"text"', "{", "[" * 100_000, "\xff"])
def test_a_configuration_that_is_none_is_a_sentence(tmp_path, content):
    (tmp_path / "configuration.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunFailed, match="configuration.json cannot be used .*: restore it, or choose another name"):
        Experiment(run(tmp_path)).open(MODEL)


def test_a_configuration_that_holds_other_things_is_another_experiment_s(tmp_path):
    (tmp_path / "configuration.json").write_text('{"id": 5, "dataset": [1], "model": "text", "seed": {}}')
    with pytest.raises(RunFailed, match="began with another model or data set"):
        Experiment(run(tmp_path)).open(MODEL)
