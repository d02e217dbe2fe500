"""The trainer's one warm thread: cancelled at any moment, and with tasks that break every promise."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fleet
from flowerbed.trainer.jobs import Cancelled, Jobs
from flowerbed.trainer.worker import Refused, Worker

WHOLE = """
import torch
def build_model(config): return torch.nn.Linear(1, 1)
def load_data(folder, config): return [1, 2], [3]
def train(model, data, config): return {"loss": 0, "accuracy": 0}
evaluate = train
"""


def spin(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "done"


def test_jobs_are_done_one_after_the_other():
    jobs, order = Jobs(), []
    submitted = [jobs.submit(lambda index=index: order.append(index)) for index in range(20)]
    assert all(job.done.wait(fleet.PATIENCE) for job in submitted)
    assert order == list(range(20))


def test_a_job_cancelled_at_any_moment_harms_no_other():
    """Most moments lie around the end of a job, where a late cancellation must not reach the next one."""
    jobs, random = Jobs(), np.random.default_rng(0)
    for _ in range(400):
        job = jobs.submit(lambda: spin(0.001))
        time.sleep(float(random.uniform(0, 0.002)))
        jobs.cancel(job)
        after = jobs.submit(lambda: spin(0))
        assert after.done.wait(fleet.PATIENCE), "the thread of the jobs has died, or has lost a job"
        assert after.result == "done"
    assert not jobs.busy


def test_a_job_cancelled_while_it_waits_is_never_run_and_keeps_no_thread():
    jobs, ran = Jobs(), []
    go = threading.Event()
    first = jobs.submit(go.wait)
    waiting = [jobs.submit(lambda: ran.append(1)) for _ in range(5)]
    for job in waiting:
        jobs.cancel(job)
    go.set()
    assert first.done.wait(fleet.PATIENCE)
    assert jobs.submit(lambda: None).done.wait(fleet.PATIENCE)
    assert not ran
    assert all(job.done.wait(fleet.PATIENCE) for job in waiting), "whoever waits for a cancelled job waits for ever"


@pytest.mark.parametrize(
    "error", [SystemExit("bye"), KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError()]
)
def test_no_exception_ends_the_thread(error):
    def fail():
        raise error

    jobs = Jobs()
    job = jobs.submit(fail)
    assert job.done.wait(fleet.PATIENCE) and job.error is error and type(error).__name__ in job.trace
    assert jobs.submit(lambda: 3).done.wait(fleet.PATIENCE)


def test_a_task_that_catches_every_exception_is_cancelled():
    def stubborn():
        while True:
            try:
                spin(10)
            except Exception:
                continue

    jobs = Jobs()
    job = jobs.submit(stubborn)
    fleet.wait_until(lambda: jobs.busy, fleet.PATIENCE, "the job to start")
    jobs.cancel(job)
    assert job.done.is_set() and not jobs.busy and issubclass(Cancelled, BaseException)


def test_a_task_stuck_in_native_code_restarts_the_trainer(tmp_path):
    """The real trainer's own way, with a shorter patience."""
    code = (
        "import time; from flowerbed.trainer import jobs; jobs.CANCEL_SECONDS = 0.5; all = jobs.Jobs()\n"
        "job = all.submit(lambda: time.sleep(60))\n"
        "while not all.busy: time.sleep(0.01)\n"
        "all.cancel(job)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=fleet.ENVIRONMENT, capture_output=True, text=True,
        timeout=fleet.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert "restarting the trainer" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("raise SystemExit('no camera')", "SystemExit"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("def f(: pass", "does not import: SyntaxError"),
        (WHOLE.replace("build_model", "make_model"), "lacks build_model"),
        (WHOLE + "train = 5", "lacks train"),
        (WHOLE + "def load_data(folder, config): raise RuntimeError('no camera')", "no camera"),
        (WHOLE + "def load_data(folder, config): raise SystemExit('no camera')", "no camera"),
        (WHOLE + "def load_data(folder, config): return None", "load_data"),
        (WHOLE + "def load_data(folder, config): return [1]", "load_data"),
        (WHOLE + "def load_data(folder, config): return 1, 2", "load_data"),
        (WHOLE + "def load_data(folder, config): return iter([1]), iter([2])", "load_data"),
        (WHOLE + "def load_data(folder): return [1], [2]", "load_data"),
        (
            WHOLE + "class Endless(torch.utils.data.IterableDataset): __iter__ = None\n"
            "def load_data(folder, config): return torch.utils.data.DataLoader(Endless()), None",
            "must return two data sets",
        ),
    ],
)
def test_a_task_that_cannot_be_used_is_a_sentence_in_health(tmp_path, task, sentence):
    (tmp_path / "task.py").write_text(task)
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    jobs = Jobs()
    job = jobs.submit(worker.warm_up)
    assert job.done.wait(fleet.PATIENCE)
    health = worker.health(jobs.busy)
    assert not health["ready"]
    assert sentence in (health["problem"] or ""), health["problem"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [("5", "returned 5, which is not a dict of metrics"), ("{}", "returned no loss among its metrics"),
     ("{'accuracy': 1}", r"train of the task returned no loss among its metrics \(accuracy\)"),
     ("{'loss': 'low'}", "train of the task returned loss = 'low', which is not a number"),
     ("{'loss': '0.5'}", "loss = '0.5', which is not a number"),
     ("{'loss': [1, 2]}", "loss as a list, but it must be one number"),
     ("{'loss': torch.ones(2)}", "loss as a list, but it must be one number"),
     ("{'loss': torch.tensor(float('nan'))}", "loss = nan, which is not a finite number"),
     ("{'loss': 1, 'f1': float('inf')}", "f1 = inf, which is not a finite number"),
     ("{'loss': 1, 'f1': None}", "f1 = None, which is not a number"),
     ("{'loss': 1, 'f1': 1j}", "f1 = 1j, which is not a number"),
     ("{'loss': 1, 'f1': 10 ** 400}", "f1 = 1000.*, which is not a finite number"),
     ("{'loss': 1, 'recall': [0.5, float('nan')]}", r"recall\[1\] = nan, which is not a finite number"),
     ("{'loss': 1, 'recall': [0.5, 'high']}", r"recall\[1\] = 'high', which is not a number"),
     ("{'loss': 1, 'confusion': torch.ones(2, 2)}", r"confusion\[0\] = \[1.0, 1.0\], which is not a number"),
     ("{'loss': 1, 'recall': [0] * 1001}", "recall as a list of 1001 numbers, and at most 1000 are taken"),
     ("{'loss': 1, 'a': [0] * 1000, 'b': [0] * 1000}", "metrics with more than 1500 numbers in all"),
     ("{'loss': 1, **{str(number): 1 for number in range(50)}}", "51 metrics, and at most 50 are taken"),
     ("{'loss': 1, 5: 1}", "a metric named 5: a name is a printable text"),
     ("{'loss': 1, 'a' + chr(27) + '[2J': 1}", "a metric named .*: a name is a printable text"),
     ("{'loss': 1, 'top5_accuracy': [0.5, 1.5]}", r"top5_accuracy\[1\] = 1.5, which is not a share, from 0 to 1"),
     ("{'loss': 1, 'accuracy': 28.1}", "accuracy = 28.1, which is not a share, from 0 to 1"),
     ("{'loss': 1, 'accuracy': -0.5}", "accuracy = -0.5, which is not a share, from 0 to 1")],
)  # fmt: skip
def test_what_a_task_returns_is_checked(tmp_path, answer, sentence):
    (tmp_path / "task.py").write_text(WHOLE + f"def train(model, data, config): return {answer}")
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    worker.warm_up()
    assert worker.ready, worker.problem
    with pytest.raises(Refused, match=sentence):
        worker.train(worker.initial(b"", {})[0], {})


def test_a_share_may_be_rounded_and_numbers_may_be_tensors(tmp_path):
    answer = (
        "{'loss': torch.tensor([2.0]), 'accuracy': 1.0000001, 'f1': numpy.float32(0.5), 'error': True, "
        "'recall': numpy.arange(3), 'precision': torch.ones(2, dtype=torch.bfloat16, requires_grad=True)}"
    )
    (tmp_path / "task.py").write_text(WHOLE + f"import numpy\ndef train(model, data, config): return {answer}")
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    worker.warm_up()
    metrics = worker.train(worker.initial(b"", {})[0], {})[1]
    assert metrics["metrics"] == {
        "loss": 2, "accuracy": 1, "f1": 0.5, "error": 1, "recall": [0, 1, 2], "precision": [1, 1],
    }  # fmt: skip


DATA = """
from torch.utils.data import *
class Set(TensorDataset): classes = ['cat', 'dog']
class Stream(IterableDataset):
    def __iter__(self): return iter(range(10))
    def __len__(self): return 10
data, x, y = Set(torch.ones(10, 3)), torch.ones(10, 3), torch.ones(10)
"""


@pytest.mark.parametrize(
    ("data", "examples", "classes"),
    [
        ("data", 10, ["cat", "dog"]),
        ("DataLoader(data, batch_size=4, shuffle=True)", 10, ["cat", "dog"]),
        ("DataLoader(data, batch_size=None)", 10, ["cat", "dog"]),
        ("DataLoader(data, batch_size=4, sampler=SubsetRandomSampler([1, 5, 7]))", 3, ["cat", "dog"]),
        ("DataLoader(Subset(data, [1, 2, 3, 4, 5]), batch_size=4)", 5, ["cat", "dog"]),
        ("DataLoader(Stream(), batch_size=4)", 10, None),
        ("Stream()", 10, None),
        ("(x, y)", 10, None),
        ("(x, x)", 10, None),
        ("[x, y]", 10, None),
        ("[x, x.numpy()]", 10, None),
        ("[x, x, y]", 10, None),
        ("(x, y, y)", 10, None),
        ("(x,)", 10, None),
        ("{'x': x, 'y': y, 'mask': x}", 10, None),
        ("[[1], [2]]", 2, None),
        ("list(zip(x, y))", 10, None),
        ("list(y)", 10, None),  # numbers
        ("list(x)", 10, None),  # of 3 values each
        ("[torch.ones(3, 8, 8), torch.ones(3, 9, 7), torch.ones(3, 8, 8), torch.ones(3, 8, 8)]", 4, None),
    ],
)
def test_data_sets_are_counted_in_examples(tmp_path, data, examples, classes):
    (tmp_path / "task.py").write_text(WHOLE + DATA + f"def load_data(folder, config): return {data}, {data}")
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    worker.warm_up()
    health = worker.health(False)
    assert (health["problem"], health["classes"]) == (None, classes)
    assert health["examples"] == health["heldout_examples"] == examples
    state = worker.initial(b"", {})[0]
    assert worker.train(state, {})[1]["examples"] == worker.evaluate(state, {})[1]["examples"] == examples


@pytest.mark.parametrize(("more", "rows"), [("y[:1]", "1"), ("0.5", "none"), ("['cat', 'dog']", "none")])
def test_arrays_by_name_of_which_nobody_knows_how_many_examples_they_are_are_refused(tmp_path, more, rows):
    data = f"{{'x': x, 'more': {more}}}"
    (tmp_path / "task.py").write_text(WHOLE + DATA + f"def load_data(folder, config): return {data}, None")
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    worker.warm_up()
    assert f"have unequal numbers of rows (x 10, more {rows}), so nobody knows" in worker.problem


def test_a_trainer_ends_quietly_on_a_signal_while_it_starts(tmp_path):
    (tmp_path / "trainer.json").write_text('{"name": "d0", "socket": "s", "task": "task.py", "data": ""}')
    process = subprocess.Popen(
        [sys.executable, "-m", "flowerbed.trainer", str(tmp_path / "trainer.json")],
        env=fleet.ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    fleet.wait_until((tmp_path / "s").exists, fleet.PATIENCE, "the socket")
    process.send_signal(signal.SIGTERM)
    assert "Traceback" not in process.communicate(timeout=fleet.PATIENCE)[1]
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "{}", '{"name": "d0"}'])
def test_a_broken_configuration_is_a_sentence(tmp_path, content):
    (tmp_path / "trainer.json").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "flowerbed.trainer", str(tmp_path / "trainer.json")],
        env=fleet.ENVIRONMENT, capture_output=True, text=True, timeout=fleet.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert "trainer.json" in done.stderr and "Traceback" not in done.stderr
