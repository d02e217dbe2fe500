"""A worker in this process: when it warms up again."""

import pytest

import fleet
from flowerbed.trainer import worker as workers
from flowerbed.trainer.jobs import Cancelled


def make(tmp_path, task=fleet.TASK):
    return workers.Worker({"name": "d0", "task": str(task), "data": "", "threads": 1})


def test_a_clock_that_is_set_back_keeps_no_trainer_from_trying_again(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "RETRY_SECONDS", 0)
    worker = make(tmp_path, tmp_path / "missing.py")
    worker.warm_up()
    assert "is not there" in worker.problem
    monkeypatch.setattr(workers.time, "time", lambda: 0.0)
    assert worker.try_again() and worker.problem is None


def test_a_warm_up_that_is_cancelled_at_its_very_beginning_is_done_again(tmp_path, monkeypatch):
    def cancelled():
        raise Cancelled

    worker = make(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Cancelled):
        patch.setattr(workers.gc, "collect", cancelled)
        worker.warm_up()
    assert not worker.ready and worker.try_again() and not worker.try_again()
    worker.warm_up()
    assert worker.ready
