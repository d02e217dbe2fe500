"""Rounds with tasks that do what a user's own may do, on a fleet of real processes."""

import shutil

import numpy as np
import pytest

import fleet
from flowerbed.rounds import checkpoint as checkpoints

# The default task with an optimiser that it keeps in its module; the folder of its trainer tells how often it was
# imported, and how many models it made.
TASK = (
    fleet.TASK.read_text()
    + """
_build_model, optimizer = build_model, None
open("imported", "a").write(".")


def build_model(config):
    open("built", "a").write(".")
    return _build_model(config).to(getattr(torch, config.get("type", "float32")))


def train(model, data, config):
    global optimizer
    if optimizer is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    images, labels = data.tensors
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return {"loss": float(loss), "accuracy": 0.5}
"""
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("g")
    (folder / "task.py").write_text(TASK)
    pair = fleet.Fleet(folder, [40, 60], folder / "task.py")
    yield pair
    pair.stop()


def counts(pair, what):
    return [len((pair.folder / host / what).read_text()) for host in ("server", "d0", "d1")]


def model(pair, experiment, number):
    return checkpoints.load(checkpoints.path_of(pair.folder / "runs" / experiment / "checkpoints", number)).model


def test_what_a_task_keeps_in_its_module_does_not_reach_another_experiment(pair):
    for experiment in ("first", "second"):
        assert pair.run(experiment, rounds=2) == (0, "rounds 1 to 2 are done")
    left, right = (model(pair, experiment, 2) for experiment in ("first", "second"))
    assert all(np.array_equal(left[name], right[name]) for name in left), "the same seed, the same model"
    losses = [event["loss"] for event in pair.events("second", "device") if event["device"] == "d0"]
    assert losses[1] < losses[0]


def test_an_experiment_goes_on_with_its_module_and_one_begun_anew_gets_another(pair):
    pair.run("onward")
    imported, built = counts(pair, "imported"), counts(pair, "built")
    assert pair.run("onward") == (0, "round 2 is done")
    assert counts(pair, "imported") == imported
    assert counts(pair, "built")[1:] == built[1:]
    shutil.rmtree(pair.folder / "runs" / "onward")
    assert pair.run("onward") == (0, "round 1 is done")
    assert counts(pair, "imported") == [count + 1 for count in imported]


def test_one_model_lasts_for_all_rounds_whatever_the_strategy_adds_to_the_configuration(pair):
    built, imported = counts(pair, "built"), counts(pair, "imported")
    assert pair.run("prox", rounds=3, strategy="FedProx", strategy_args={"proximal_mu": 0.1})[0] == 0
    assert counts(pair, "built") == [count + 1 for count in built]
    assert counts(pair, "imported") == [count + 1 for count in imported]


def test_a_model_that_cannot_travel_ends_the_run_before_any_training(pair):
    code, sentence = pair.run("type", config={**pair.config("")["config"], "type": "bfloat16"})
    assert code == 1
    assert sentence == (
        "the server's trainer made no model: tensor features.0.weight of the task's model has type bfloat16, which can "
        "be neither sent nor saved: use another, such as float32"
    )
    assert pair.events("type", "device") == []
