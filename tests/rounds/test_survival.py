"""What a run survives beyond a lost device: full disks, second runs, a trainer's restart, a liar, an impatient user."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import fleet
from device import Device
from disk import full_disk
from flowerbed import server_socket, tensors
from flowerbed.link.stream import wire
from flowerbed.link.stream.grid import StreamGrid
from flowerbed.parts import split
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds import evaluator as evaluators
from flowerbed.rounds import lock, running
from flowerbed.rounds.config import RunConfig, RunFailed
from flowerbed.rounds.loop import run_rounds
from flowerbed.trainer_socket import TrainerError

# The default task, held up as long as a file of that name lies in the device's folder: `train-2` holds up round 2. Once
# it is, there is a file held-up. A file that says `deaf` holds it up where Python cannot be interrupted.
TASK = (
    fleet.TASK.read_text()
    + """
_build_model, _load_data, _train, _evaluate = build_model, load_data, train, evaluate


def _held_up(function, config):
    import os, time
    path = "%s-%d" % (function, config.get("round", 0))
    while os.path.exists(path):
        deaf = open(path).read() == "deaf"
        open("held-up", "w").close()
        time.sleep(600 if deaf else 0.02)


def build_model(config):
    _held_up("build_model", config)
    return _build_model(config)


def load_data(folder, config):
    _held_up("load_data", {})
    return _load_data(folder, config)


def train(model, data, config):
    _held_up("train", config)
    return _train(model, data, config)


def evaluate(model, data, config):
    _held_up("evaluate", config)
    return _evaluate(model, data, config)
"""
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("p")
    (folder / "task.py").write_text(TASK)
    pair = fleet.Fleet(folder, [40, 60], folder / "task.py")
    yield pair
    pair.stop()


@pytest.fixture(autouse=True)
def whole(pair):
    """Every test begins with a fleet that is whole, and with nothing held up."""
    release(pair)
    pair.start()
    wait_free(pair)


def hold(pair, host, what, how=""):
    (pair.folder / host / "held-up").unlink(missing_ok=True)
    (pair.folder / host / what).write_text(how)


def wait_held_up(pair, host):
    """Wait until a trainer is held up: that the server's is busy may mean that it makes the first model."""
    fleet.wait_until((pair.folder / host / "held-up").exists, fleet.PATIENCE, f"{host} to be held up")


def release(pair, *hosts):
    for host in hosts or ["server", *pair.devices]:
        for function in ("build_model", "load_data", "train", "evaluate"):
            for path in (pair.folder / host).glob(f"{function}-*"):
                path.unlink()


def model(folder, number):
    return checkpoints.load(checkpoints.path_of(folder / "checkpoints", number)).model


def status(pair):
    return server_socket.status(str(pair.folder / "server/control.sock"), pair.devices)


def wait_free(pair):
    fleet.wait_until(lambda: status(pair)["run"] is None, fleet.PATIENCE, "the server to be free for another run")


def test_a_trainer_that_was_killed_takes_part_again_in_the_same_run(pair):
    hold(pair, "d1", "train-1")
    hold(pair, "d0", "train-2")
    run = pair.begin("again", rounds=4)
    pair.wait_busy("d1")
    pair.signal("d1", "trainer")
    release(pair, "d1")
    fleet.wait_until(lambda: pair.events("again", "round"), fleet.PATIENCE, "round 1 without d1")
    pair.wait_busy("d0")
    pair.start()  # as its supervisor does
    release(pair, "d0")
    assert run.wait(fleet.PATIENCE) == 0, run.communicate()
    assert [event["clients_answered"] for event in pair.events("again", "round")][0] == 1
    assert pair.events("again", "round")[-1]["clients_answered"] == 2, pair.events("again", "device")[-1]


def test_a_device_that_was_still_loading_is_asked_again_what_it_has(pair):
    hold(pair, "d1", "load_data-0")
    hold(pair, "d0", "train-1")
    restart(pair, "d1", "trainer")
    run = pair.begin("loading", wait_clients=8)
    wait_held_up(pair, "d0")  # the run has begun, and waits for d1 no longer
    release(pair)
    assert run.wait(fleet.PATIENCE) == 0
    waiting = pair.events("loading", "waiting")[-1]
    assert "s for d1 (connected, but the trainer is still starting)" in waiting["message"]
    events = pair.events("loading", "device")
    assert [event.get("heldout_examples") for event in events] == [20, 20], (events, pair.events("loading", "problem"))


def restart(pair, host, part):
    """Have it started again, as its supervisor does, without a wait until it is ready."""
    pair.signal(host, part)
    pair.processes[host, part] = fleet.start(part, pair.folder / host / f"{part}.json")


def test_a_run_that_begins_while_trainers_are_started_again_waits_for_them(pair):
    for device in pair.devices:
        pair.signal(device, "trainer")
    run = pair.begin("early", wait_clients=60)
    fleet.wait_until(lambda: pair.events("early", "waiting"), fleet.PATIENCE, "the run to say whom it waits for")
    assert "d0, d1 (connected, but the trainer is still starting)" in pair.events("early", "waiting")[0]["message"]
    pair.start()
    assert run.wait(fleet.PATIENCE) == 0
    assert pair.events("early", "round")[0]["clients_answered"] == 2


def test_a_trainer_that_is_told_to_stop_did_not_die(pair):
    hold(pair, "d1", "train-1")
    run = pair.begin("told")
    wait_held_up(pair, "d1")
    pair.signal("d1", "trainer", signal.SIGTERM)
    assert run.wait(fleet.PATIENCE) == 0
    assert pair.events("told", "device")[1]["reason"] == "d1 gave no update: the trainer was stopped"
    pair.processes["d1", "trainer"].wait(fleet.PATIENCE)


def test_restarts_between_rounds_change_no_bit(pair):
    assert pair.run("steady", rounds=2)[0] == 0
    assert pair.run("restarted")[0] == 0
    for host in ("server", "d1"):
        pair.signal(host, "trainer")
    pair.signal("server", "server")
    pair.start()
    assert pair.run("restarted")[0] == 0
    one, other = (model(pair.folder / "runs" / name, 2) for name in ("steady", "restarted"))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint_and_the_run_goes_on_later(pair, tmp_path):
    with full_disk(tmp_path, 4_000_000) as disk:
        folder = disk / "runs"
        assert pair.run("disk", directory=str(folder))[0] == 0
        space = os.statvfs(disk)
        for left, sentence in [(100_000, "round 2 could not be saved in"), (300_000, "round 2 is saved in")]:
            filler = disk / "filler"
            filler.write_bytes(bytes(space.f_bfree * space.f_bsize - left))
            code, said = pair.run("disk", directory=str(folder))
            assert code == 1 and sentence in said and "No space left on device" in said and "make room" in said, said
            assert "Traceback" not in said
            newest, problems = checkpoints.newest(folder / "checkpoints")
            assert (newest.round, problems) == (1 if left < 200_000 else 2, [])
            assert not list(folder.rglob(".*"))
            filler.unlink()
        assert pair.run("disk", directory=str(folder)) == (0, "round 3 is done")
        recorded = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [event["round"] for event in recorded if event["event"] == "round"] == [1, 2, 3]
        assert tensors.metadata((folder / "model/last.safetensors").read_bytes())["round"] == "3"


def test_a_second_run_is_refused_while_one_goes_on(pair):
    hold(pair, "d0", "train-1")
    first = pair.begin("first")
    pair.wait_busy("d0")
    assert status(pair)["run"]["experiment"] == "first"
    assert pair.run("second") == (1, "a run of experiment first goes on: wait for it, or stop it first")
    release(pair)
    assert first.wait(fleet.PATIENCE) == 0
    assert pair.run("second")[0] == 0


def test_a_run_ends_with_the_process_that_started_it(pair):
    hold(pair, "d0", "train-1")
    path = pair.folder / "orphan.json"
    path.write_text(json.dumps(pair.config("orphan")))
    parent = subprocess.Popen(
        ["sh", "-c", f"{sys.executable} -m flowerbed.submit {path}; true"], stderr=subprocess.PIPE, text=True,
        env=fleet.ENVIRONMENT,
    )  # fmt: skip
    pair.wait_busy("d0")
    parent.kill()
    pair.wait_idle("d0")
    wait_free(pair)
    assert parent.communicate(timeout=fleet.PATIENCE)[1] == "the run was stopped; the finished rounds stay\n"
    assert pair.events("orphan", "run-ended")[-1]["status"] == "stopped"


def test_an_impatient_user_gets_one_sentence(pair):
    """Ctrl-C more than once, and Ansible's own SIGTERM on top of it."""
    hold(pair, "d0", "train-1")
    run = pair.begin("impatient")
    pair.wait_busy("d0")
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        run.send_signal(number)
    out, err = run.communicate(timeout=fleet.PATIENCE)
    assert (run.returncode, out) == (130, "")
    assert err == "the run was stopped; the finished rounds stay\n"
    pair.wait_idle("d0")
    wait_free(pair)


def test_a_run_is_stopped_while_the_server_evaluates(pair):
    hold(pair, "server", "evaluate-1")
    run = pair.begin("judged")
    wait_held_up(pair, "server")
    run.send_signal(signal.SIGINT)
    assert run.wait(fleet.PATIENCE) == 130
    pair.wait_idle("server")
    wait_free(pair)
    release(pair)
    assert pair.run("judged") == (0, "round 1 is done")


def test_a_run_is_stopped_while_it_waits_for_the_server_s_own_trainer(pair):
    pair.signal("server", "trainer")
    run = pair.begin("nobody")
    fleet.wait_until(lambda: status(pair)["run"], fleet.PATIENCE, "the run to begin")
    run.send_signal(signal.SIGINT)
    assert run.wait(fleet.PATIENCE) == 130
    wait_free(pair)


def test_a_round_goes_on_without_the_server_s_own_evaluation(pair):
    hold(pair, "server", "evaluate-1")
    run = pair.begin("unjudged")
    wait_held_up(pair, "server")
    pair.signal("server", "trainer")
    assert run.wait(fleet.PATIENCE) == 0
    [event] = pair.events("unjudged", "round")
    assert event["accuracy"] is None and event["heldout_accuracy"] is not None
    [problem] = pair.events("unjudged", "problem")
    assert "the server could not evaluate round 1: the trainer died during evaluate" in problem["message"]
    pair.start()
    assert pair.run("unjudged")[0] == 0
    assert pair.events("unjudged", "round")[-1]["accuracy"] is not None


def test_a_server_that_cannot_evaluate_in_time_costs_a_round_its_test_score_and_no_more(pair):
    hold(pair, "server", "evaluate-1")
    hold(pair, "d0", "train-2")
    run = pair.begin("late score", rounds=2, round_timeout=20)
    wait_held_up(pair, "d0")
    release(pair)
    assert run.wait(fleet.PATIENCE) == 0
    assert [event["accuracy"] is None for event in pair.events("late score", "round")] == [True, False]
    [problem] = pair.events("late score", "problem")
    assert "the server could not evaluate round 1: evaluate did not end within 20 s" in problem["message"]
    assert problem["message"].endswith("it goes on without a test score")


def test_a_server_s_trainer_that_hangs_is_waited_for_so_long_and_no_longer(pair, monkeypatch):
    monkeypatch.setattr(evaluators, "START_SECONDS", 0)
    monkeypatch.setattr(evaluators, "MODEL_SECONDS", 2)
    hold(pair, "server", "build_model-0")
    evaluator = evaluators.Evaluator(str(pair.folder / "server/trainer.sock"), threading.Event())
    with contextlib.closing(evaluator):
        with pytest.raises(TrainerError, match="initial did not end within 2 s: it was cancelled"):
            evaluator.initial(pair.task_config(0))
        release(pair)
        pair.wait_idle("server")
        monkeypatch.setattr(evaluators, "MODEL_SECONDS", 60)
        packed, _, has_test = evaluator.initial(pair.task_config(0))
        assert has_test
        hold(pair, "server", "evaluate-1", "deaf")
        with pytest.raises(TrainerError, match="evaluate did not end within 2 s: it was cancelled"):
            evaluator.result(evaluator.begin(packed, pair.task_config(1), 2))
        pair.processes["server", "trainer"].wait(fleet.PATIENCE)  # it heeds nothing, and ends itself
        release(pair)
        pair.start()
        assert evaluator.result(evaluator.begin(packed, pair.task_config(1), 60))[1]["examples"] == 64


def test_a_model_that_is_too_large_to_be_sent_is_told_before_anything_trains(pair, monkeypatch):
    monkeypatch.setattr(tensors, "MOST_BYTES", 100_000)
    run = RunConfig.parse(pair.config("large"))
    grid = StreamGrid("127.0.0.1:0", pair.devices, pair.folder / "server/tls")
    with pytest.raises(RunFailed, match=r"the model has 0\.2\d+ MB, but Flowerbed sends at most 0\.1 MB"):
        run_rounds(grid, run, threading.Event())
    with pytest.raises(TrainerError, match="the model has 0.2 MB, but"):
        pair.trainer("d0").call("train", bytes(200_000), pair.task_config(1))
    assert pair.trainer("d0").health()["ready"]


def test_a_run_is_known_by_its_server_and_ends_after_its_round_where_that_is_asked_for(pair):
    runs, control = pair.folder / "runs", str(pair.folder / "server/control.sock")
    hold(pair, "d0", "train-2")
    run = pair.begin("ending", rounds=9)
    wait_held_up(pair, "d0")
    assert running.experiments(runs, control) == [runs / "ending"] and running.experiments(runs, "another") == []
    with pytest.raises(RunFailed), lock.hold(runs / "ending", "another"):
        pass
    command = [sys.executable, "-m", "flowerbed.rounds.running", str(runs), control, "--end"]
    asking = subprocess.Popen(command, env=fleet.ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    fleet.wait_until(lambda: lock.is_to_end(runs / "ending"), fleet.PATIENCE, "the round's end to be asked for")
    release(pair)
    said = "rounds 1 to 2 are done; 7 more are left, for deploy.yml has waited for this round: run again\n"
    assert run.communicate(timeout=fleet.PATIENCE) == (said, "") and run.returncode == 0
    assert asking.communicate(timeout=fleet.PATIENCE)[0] == '["ending"]\n'
    assert not lock.is_to_end(runs / "ending") and running.experiments(runs, control) == []
    with lock.asked_to_end(runs / "ending"):  # a word that is left from before is none to a new run
        assert pair.run("ending") == (0, "round 3 is done")


def test_servers_of_two_inventories_do_not_write_into_one_experiment(pair):
    folder = pair.folder / "runs/shared"
    with lock.hold(folder):  # as another inventory's server does
        assert pair.run("shared") == (1, "another run of experiment shared goes on: wait for it, or stop it first")
    hold(pair, "d0", "train-1")
    run = pair.begin("shared")
    wait_held_up(pair, "d0")
    with pytest.raises(RunFailed, match="another run of experiment shared goes on"), lock.hold(folder):
        pass
    release(pair)
    assert run.wait(fleet.PATIENCE) == 0
    with lock.hold(folder):
        assert pair.events("shared", "round")


MEASURED = {"loss": 1.0, "accuracy": 0.5}


def good(packed):
    return packed, {"examples": 60, "metrics": MEASURED, "seconds_train": 0.1}


def changed(packed, change):
    """Return packed tensors with `change(name, array)` for each of floats, a float64 array."""
    state = tensors.unpack(packed)
    floats = {name: change(name, array.astype(float)) for name, array in state.items() if array.dtype.kind == "f"}
    return tensors.pack({**state, **floats})


LIES = {
    "no tensors": lambda packed: (b"", good(packed)[1]),
    "cut tensors": lambda packed: (packed[:-100], good(packed)[1]),
    "nested header": lambda packed: ((8 + 100_000).to_bytes(8, "little") + b"[" * 100_008, good(packed)[1]),
    "a loud name": lambda packed: (tensors.pack({"x" * 10_000: np.zeros(2)}).replace(b"F64", b"F65"), good(packed)[1]),
    "other names": lambda packed: (tensors.pack({"a": np.zeros(2)}), good(packed)[1]),
    "infinite": lambda packed: (
        tensors.pack({name: array * np.inf for name, array in tensors.unpack(packed).items()}), good(packed)[1]
    ),
    "infinite in float32": lambda packed: (changed(packed, lambda name, array: array + 1e300), good(packed)[1]),
    "infinite when squared": lambda packed: (changed(packed, lambda name, array: array + 3e38), good(packed)[1]),
    "a negative variance": lambda packed: (
        changed(packed, lambda name, array: array - 9 * name.endswith("running_var")), good(packed)[1]
    ),
    "text for numbers": lambda packed: (packed, good(packed)[1] | {"metrics": {"loss": "low"}}),
    "nothing for numbers": lambda packed: (packed, good(packed)[1] | {"metrics": None}),
    "text for examples": lambda packed: (packed, good(packed)[1] | {"examples": "many"}),
    "per cent": lambda packed: (packed, good(packed)[1] | {"metrics": MEASURED | {"accuracy": 28.1}}),
    "no examples": lambda packed: (packed, good(packed)[1] | {"examples": 0}),
    "a list": lambda packed: (packed, [1, 2]),
    "a number": lambda packed: (packed, 5),
    "text for seconds": lambda packed: (packed, good(packed)[1] | {"seconds_client": "long"}),
    "an error of another kind": lambda packed: (b"", {"error": {"a": 1}, "trace": "text"}),
}  # fmt: skip


def liar(pair, lies, scores, *about):
    """Return a device on the real stream, under the name d1, that answers a request to train with the next of `lies`.

    A request to evaluate gets the next of `scores`. `about` is what it says of itself, each time it is asked, the last
    of it again and again.
    """
    about, lies, scores = list(about) or [{}], iter(lies), iter(scores)

    def answer(message):
        words, packed = {}, b""
        if message.kind == "query":
            words = {"name": "d1", "ready": True, "problem": None} | (about.pop(0) if len(about) > 1 else about[0])
        elif message.kind == "train":
            packed, words = next(lies)(b"".join(message.tensors))
        else:
            words = next(scores)
        return wire.write(wire.Message(message.id, message.kind, words, split(packed)))

    return Device(pair.address, pair.folder / "d1/tls", answer)


SCORE = {"metrics": MEASURED, "examples": 20, "seconds_evaluate": 0.1}
FALSE_SCORES = {
    "text": SCORE | {"metrics": {"loss": "low"}}, "nothing": SCORE | {"metrics": None},
    "list": SCORE | {"metrics": {"loss": [1, 2]}},
    "many": SCORE | {"examples": "many"}, "negative": SCORE | {"examples": -20}, "error": {"error": 5},
    "no dict": "nothing at all", "per cent": SCORE | {"metrics": MEASURED | {"accuracy": 28.1}}, "empty": {},
}  # fmt: skip


def run_with_liar(pair, experiment, lies, scores, *about, **changes):
    pair.signal("d1", "client")
    fleet.wait_until(lambda: not status(pair)["devices"]["d1"]["connected"], fleet.PATIENCE, "d1 to be gone")
    with liar(pair, lies, scores, *about):
        fleet.wait_until(lambda: status(pair)["devices"]["d1"]["connected"], fleet.PATIENCE, "the liar to be in")
        assert pair.run(experiment, **changes)[0] == 0


def test_a_device_that_sends_nonsense_is_left_out_by_name_and_the_round_goes_on(pair):
    run_with_liar(pair, "liar", LIES.values(), itertools.repeat(SCORE), rounds=len(LIES))
    events = pair.events("liar", "device")
    for name, honest, event in zip(LIES, events[::2], events[1::2], strict=True):
        assert event["status"] == "failed" and event["reason"].startswith("d1 "), (name, event)
        assert len(event["reason"]) < 500 and honest["weight"] == 1, (name, honest, event)


def test_a_device_that_sends_a_senseless_score_is_named_and_the_round_goes_on(pair):
    run_with_liar(pair, "score", itertools.repeat(good), FALSE_SCORES.values(), rounds=len(FALSE_SCORES))
    honest, problems = pair.events("score", "device")[::2], pair.events("score", "problem")
    for name, event, done in zip(FALSE_SCORES, honest, pair.events("score", "round"), strict=True):
        assert done["heldout_accuracy"] == event["heldout_accuracy"], (name, done, event)
        assert any("d1" in problem["message"] for problem in problems if problem["round"] == done["round"]), name


@pytest.mark.parametrize(
    ("name", "split", "counted"),
    [("split", {"d0": {"train": 40, "heldout": 20}, "d1": {"train": 60, "heldout": 30}}, 60), ("own", None, 400)],
)
def test_a_device_that_claims_more_examples_than_it_can_have_does_not_own_the_model(pair, name, split, counted):
    dataset = pair.config("")["dataset"] | ({"devices": split} if split else {"name": "device"})

    def lie(packed):
        return packed, good(packed)[1] | {"examples": 10**12}

    scores = itertools.repeat(SCORE | {"examples": 10**12})
    run_with_liar(pair, f"greedy {name}", itertools.repeat(lie), scores, rounds=2, dataset=dataset)
    events = pair.events(f"greedy {name}", "device")
    assert [event["weight"] for event in events] == pytest.approx([40 / (40 + counted), counted / (40 + counted)] * 2)
    assert (events[1]["examples"], events[1]["examples_claimed"]) == (counted, 10**12)
    heldout = 30 if split else 200
    assert [event["heldout_weight"] for event in events[:2]] == pytest.approx(
        [20 / (20 + heldout), heldout / (20 + heldout)]
    )
    problems = [event["message"] for event in pair.events(f"greedy {name}", "problem")]
    assert len(problems) == 2 and "d1 says that it has 1000000000000 training examples, but" in problems[0]
    assert f"{counted}: it counts as such" in problems[0] and "held-out examples, but" in problems[1]


CLASSES = [f"class {label}" for label in range(500)]
OTHER = [*CLASSES[:400], "a stranger's"]


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        ({"tried": 2.0, "task_hash": "other"}, "d1 has task code other, but this run is of"),
        ({"tried": 2.0, "classes": OTHER}, "which have, from label 400 on, ['class 400', 'class 401'"),
        ({"tried": 3.0}, "its trainer was started again, and has not said what it has"),
        ({"tried": 2.0, "name": "nobody"}, "its trainer was started again, and has not said what it has"),
        ({"tried": 2.0}, None),
    ],
)
def test_a_device_whose_trainer_is_another_now_is_checked_anew_before_its_update_is_used(pair, after, sentence):
    def retrained(packed):
        return packed, good(packed)[1] | {"tried": 2.0}

    experiment = f"another {'-'.join(after)} {after['tried']}"
    before = {"tried": 1.0, "classes": CLASSES}
    lies, scores = itertools.repeat(retrained), itertools.repeat(SCORE | {"tried": 2.0})
    run_with_liar(pair, experiment, lies, scores, before, before | after)
    event = pair.events(experiment, "device")[1]
    assert event["status"] == ("failed" if sentence else "ok"), event
    assert sentence is None or sentence in event["reason"]


def test_what_a_device_says_is_bounded_and_forges_nothing(pair, capfd):
    """Its words go to the terminal, the run's log and its events, and no further than a line each."""
    escape = "\x1b[2J\nrounds 1 to 99 are done\n"
    loud = escape + "x" * 20_000

    def shout(packed):
        return b"", {"error": loud, "trace": [escape * 10] * 30 + ["    indented"], escape: escape}

    before = (pair.folder / "server/server.log").stat().st_size
    about = {"python": escape * 1000, "torch": escape, "facts": {"image": escape}, "classes": [escape], "tried": escape}
    run_with_liar(pair, "loud", itertools.repeat(shout), itertools.repeat(SCORE | {"error": loud}), about)
    folder = pair.folder / "runs/loud"
    written = [folder / "metrics.jsonl", folder / "logs/run.log", pair.folder / "server/server.log"]
    assert sum(path.stat().st_size for path in written) - before < 20_000
    assert "      indented" in (folder / "logs/run.log").read_text()
    for path in written:
        text = path.read_text()
        assert (
            "\x1b" not in text and "\\u001b" not in text and "\nrounds 1 to 99" not in text and "\\nrounds" not in text
        )
    assert pair.events("loud", "device")[1]["reason"].startswith("d1 gave no update: rounds 1 to 99 are done xxx")
