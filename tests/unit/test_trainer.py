"""The trainer's protocol, spoken to a real trainer."""

import contextlib
import http.client
import json
import signal
import socket
import threading

import numpy as np
import pytest

import fleet
from flowerbed import tensors
from flowerbed.trainer_socket import TrainerError, TrainerSocket
from flowerbed.unix_http import UnixConnection

# The default task, with a few ways to go wrong, chosen by the request's configuration.
TASK = (
    fleet.TASK.read_text()
    + """
_train = train


class Own(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def train(model, data, config):
    import os, time
    behaviour = config.get("behaviour")
    if behaviour == "crash":
        raise RuntimeError("the sensor is unplugged")
    if behaviour == "quit":
        raise SystemExit("bye")
    if behaviour == "nonsense":
        return 5
    if behaviour == "die":
        os._exit(3)
    if behaviour == "spawn":
        loader = torch.utils.data.DataLoader(
            Own(data), 16, num_workers=2, multiprocessing_context="spawn", generator=torch.Generator()
        )
        assert all(torch.equal(torch.cat(column), tensor) for column, tensor in zip(zip(*loader), data.tensors))
    if behaviour == "fork":
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:  # whose end is SIGTERM
            assert pool.map(abs, [-1, 2]) == [1, 2]
    while behaviour == "slow":
        time.sleep(0.01)
    return _train(model, data, config)
"""
)
CONFIG = {"channels": 1, "classes": fleet.CLASSES, "batch_size": 16, "local_epochs": 1, "learning_rate": 0.01}
CONFIG_HEADER = ("Flowerbed-Config", json.dumps(CONFIG))
OTHER_TASK = ("Flowerbed-Config", '{"task_hash": "other"}')


def running(folder, task=TASK, **changes):
    (folder / "task.py").write_text(task)
    config = {"name": "d0", "socket": "trainer.sock", "task": "task.py", "data": "data", "threads": 1} | changes
    (folder / "trainer.json").write_text(json.dumps(config))
    return fleet.running("trainer", folder / "trainer.json")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d0")
    (folder / "data").mkdir()
    for split, (x, y) in {"train": fleet.shard(0, 60), "heldout": fleet.shard(1, 20)}.items():
        np.savez(folder / "data" / f"{split}.npz", x=x, y=y)
    with running(folder):
        TrainerSocket(str(folder / "trainer.sock")).wait_ready(120)
        yield folder


@pytest.fixture
def trainer(home):
    client = TrainerSocket(str(home / "trainer.sock"))
    yield client
    assert client.health()["ready"], "the trainer must outlive every request"


def initial(trainer):
    return trainer.call("initial", b"", CONFIG)[0]


def raw(home, method, path, headers=(), body=b""):
    connection = UnixConnection(str(home / "trainer.sock"))
    connection.putrequest(method, path)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_health_says_what_it_is(trainer):
    health = trainer.health()
    assert (health["name"], health["examples"], health["heldout_examples"]) == ("d0", 60, 20)
    assert health["task_hash"] and health["torch"] and health["python"] and not health["busy"]


def test_training_learns_and_evaluation_gives_no_tensors(trainer):
    before = initial(trainer)
    after = before
    for number in range(4):
        after, metrics = trainer.call("train", after, {**CONFIG, "round": number})
    assert metrics["examples"] == 60 and metrics["peak_memory_bytes"] > 1e7 and metrics["seconds_train"] > 0
    assert tensors.unpack(before).keys() == tensors.unpack(after).keys()
    losses = [trainer.call("evaluate", state, CONFIG)[1]["metrics"]["loss"] for state in (before, after)]
    assert losses[1] < losses[0]
    assert trainer.call("evaluate", after, CONFIG)[0] == b""


def test_the_same_request_gives_the_same_bytes(trainer):
    state = initial(trainer)
    first = trainer.call("train", state, {**CONFIG, "round": 1})[0]
    assert trainer.call("train", state, {**CONFIG, "round": 1})[0] == first
    assert trainer.call("train", state, {**CONFIG, "round": 2})[0] != first
    assert initial(trainer) == state


def test_workers_of_a_data_loader_may_be_spawned(trainer):
    assert trainer.call("train", initial(trainer), {**CONFIG, "behaviour": "spawn"})[1]["examples"] == 60


def test_the_end_of_a_process_that_the_task_forked_is_not_the_trainers(trainer):
    assert trainer.call("train", initial(trainer), {**CONFIG, "behaviour": "fork"})[1]["examples"] == 60


def test_a_mean_of_counters_is_rounded(trainer):
    state = {name: np.array(array) for name, array in tensors.unpack(initial(trainer)).items()}
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    state[counter] = np.array(6.7)
    after = tensors.unpack(trainer.call("train", tensors.pack(state), CONFIG)[0])
    assert after[counter] == 7 + 4 and after[counter].dtype == np.int64


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        (("GET", "/"), 404, "GET /health"),
        (("POST", "/retrain", [("Content-Length", "0")]), 404, "POST goes to initial, train, evaluate"),
        (("POST", "/train"), 400, "needs a Content-Length"),
        (("POST", "/train", [("Content-Length", "-4")]), 400, "at most"),
        (("POST", "/train", [("Content-Length", str(1 << 40))]), 400, "at most"),
        (("POST", "/train", [("Content-Length", "0"), ("Flowerbed-Config", "{")]), 400, "not JSON"),
        (("POST", "/train", [("Content-Length", "0"), ("Flowerbed-Config", "[]")]), 400, "not a JSON object"),
        (("POST", "/train", [("Content-Length", "4"), CONFIG_HEADER], b"junk"), 400, "too few"),
        (("POST", "/train", [("Content-Length", "0"), OTHER_TASK]), 409, "run deploy.yml"),
    ],
)  # fmt: skip
def test_a_bad_request_gets_a_sentence(home, trainer, request_, status, sentence):
    answer = raw(home, *request_)
    assert answer[0] == status
    assert sentence in answer[1]["error"]


def test_tensors_of_another_model_are_refused(trainer):
    state = dict(tensors.unpack(initial(trainer)))
    name = next(iter(state))
    for wrong in ({**state, name: np.zeros(3, np.float32)}, {"alien": np.zeros(3, np.float32)}):
        with pytest.raises(TrainerError, match="this task's model"):
            trainer.call("train", tensors.pack(wrong), CONFIG)


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [("crash", "the sensor is unplugged"), ("quit", "SystemExit"), ("nonsense", "5, which is not a dict of metrics")],
)
def test_a_crash_in_the_task_is_told_and_the_trainer_goes_on(trainer, behaviour, sentence):
    with pytest.raises(TrainerError, match=sentence) as caught:
        trainer.call("train", initial(trainer), {**CONFIG, "behaviour": behaviour})
    assert behaviour == "nonsense" or any("task.py" in line for line in caught.value.trace)
    assert trainer.call("train", initial(trainer), CONFIG)[1]["examples"] == 60


def test_closing_the_connection_cancels_the_job(trainer):
    state, impatient = initial(trainer), TrainerSocket(trainer.path)
    caller = threading.Thread(
        target=lambda: pytest.raises(TrainerError, impatient.call, "train", state, {**CONFIG, "behaviour": "slow"})
    )
    caller.start()
    fleet.wait_until(lambda: trainer.health()["busy"], fleet.PATIENCE, "the job to run")
    impatient.cancel()  # it would go on for ever
    fleet.wait_until(lambda: not trainer.health()["busy"], fleet.PATIENCE, "the job to stop")
    caller.join()
    assert trainer.call("train", state, CONFIG)[1]["examples"] == 60


def test_a_trainer_that_dies_is_a_sentence(home, tmp_path):
    (tmp_path / "data").symlink_to(home / "data")
    with running(tmp_path) as process:
        trainer = TrainerSocket(str(tmp_path / "trainer.sock"))
        trainer.wait_ready(120)
        state = initial(trainer)
        with pytest.raises(TrainerError, match="the trainer died during train"):
            trainer.call("train", state, {**CONFIG, "behaviour": "die"})
        process.wait(fleet.PATIENCE)
        with pytest.raises(TrainerError, match="no trainer answers on"):
            trainer.health()
    with running(tmp_path) as process:  # its socket was left behind
        trainer.wait_ready(120)
        with running(tmp_path) as second:
            assert second.wait(fleet.PATIENCE) != 0
            assert "another trainer already answers" in (tmp_path / "trainer.log").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(fleet.PATIENCE) == 0


@pytest.mark.parametrize(
    ("task", "data", "sentence"),
    [
        ("def train(): pass\nbuild_model = load_data = train", "data", "lacks evaluate"),
        ("import nothing_like_it", "data", "does not import: ModuleNotFoundError"),
        (TASK, "elsewhere", "elsewhere is missing"),
    ],
)
def test_a_task_or_data_that_cannot_be_used_is_told_by_health(home, tmp_path, task, data, sentence):
    (tmp_path / "data").symlink_to(home / "data")
    with running(tmp_path, task, data=data):
        trainer = TrainerSocket(str(tmp_path / "trainer.sock"))
        with pytest.raises(TrainerError, match=sentence):
            trainer.wait_ready(120)
        with pytest.raises(TrainerError, match=sentence):
            trainer.call("train", b"", CONFIG)


def test_whoever_waits_for_a_trainer_is_not_told_of_what_has_been_put_right(home, tmp_path):
    with running(tmp_path):
        trainer = TrainerSocket(str(tmp_path / "trainer.sock"))
        with pytest.raises(TrainerError, match="the data folder data is missing"):
            trainer.wait_ready(120)
        with pytest.raises(TrainerError, match="the data folder data is missing"):
            trainer.wait_ready(120, again=True)
        (tmp_path / "data").symlink_to(home / "data")
        assert trainer.wait_ready(120, again=True)["ready"]


def test_a_caller_that_goes_away_in_the_middle_of_its_request_does_no_harm(home, trainer):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(home / "trainer.sock"))
        caller.sendall(b"POST /train HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc")
    with contextlib.suppress(http.client.HTTPException):
        trainer.health()
