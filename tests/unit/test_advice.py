"""What a run says of its strategy: its defaults, what does nothing, and a loss that explodes."""

import pytest

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed.rounds import advice
from flowerbed.rounds.strategy import Aggregation


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("FedAvg", {}, []),
        ("FedAdam", {}, ["FedAdam has eta 0.01, Flowerbed's default, as the loss explodes with Flower's"]),
        ("FedAdam", {"eta": 0.1}, []),
        ("FedAdagrad", {"tau": 0.01}, ["FedAdagrad has eta 0.01, Flowerbed's"]),
        ("FedProx", {}, ["FedProx with proximal_mu 0 is FedAvg"]),
        ("FedProx", {"proximal_mu": 1}, []),
        ("FedAvgM", {}, ["FedAvgM with server_momentum 0 and server_learning_rate 1 is FedAvg"]),
        ("FedAvgM", {"server_momentum": 0.5}, []),
        ("FedTrimmedAvg", {}, ["FedTrimmedAvg with beta 0.2 leaves out nothing of 4 devices; it would of 5"]),
        ("FedTrimmedAvg", {"beta": 0}, ["FedTrimmedAvg with beta 0 leaves out nothing of 4 devices"]),
        ("FedTrimmedAvg", {"beta": 0.25}, []),
    ],
)  # fmt: skip
def test_a_run_says_what_its_user_may_not_know_of_a_strategy(name, arguments, said):
    found = advice.remarks(Aggregation(name, arguments, set()), arguments, 4)
    assert len(found) == len(said)
    assert all(sentence.startswith(begin) for sentence, begin in zip(found, said, strict=True))


def test_ours_stand_in_for_flower_s_and_the_user_s_for_ours():
    assert Aggregation("FedAdagrad", {}, set()).strategy.eta == 0.01
    assert Aggregation("FedAdagrad", {"eta": 0.1}, set()).strategy.eta == 0.1


def watched(name, losses, kind="loss", trained=2.2, arguments=None, events=()):
    """Return in which rounds something is said, and all of it."""
    watch = advice.Watch(Aggregation(name, arguments or {}, set()), "trial", list(events))
    scores = [{"loss": None, "heldout_loss": None} | {kind: loss} for loss in losses]
    first = 1 + len(events)
    said = {number: watch.after(number, each, trained) for number, each in enumerate(scores, first)}
    return {number: sentence for number, sentence in said.items() if sentence}


@pytest.mark.parametrize("kind", ["loss", "heldout_loss"])
def test_a_loss_that_explodes_is_said_once_with_what_to_change(kind):
    said = watched("FedAdam", [2.3, 2.1, 4.0, 7.0, 12.8], kind)
    assert said == {
        4: "the loss of the model of round 4 is 7, 3.33 times that of round 2 (2.1): it explodes. FedAdam with eta "
        "0.01 moves the model too far: try a tenth of it in fl_strategy_args; to go on from the best model so far, "
        "begin another experiment with it: -e experiment=NAME -e fl_initial=trial"
    }
    assert list(watched("FedAdam", [2.3, 2.1, 7.0, 12.8, 22.0, 70.0], kind)) == [3, 5, 6], "and when it is thrice that"


def test_a_first_model_that_explodes_is_told_by_the_training():
    said = watched("FedAdagrad", [68.0, 90.0, 304.0])
    assert list(said) == [1, 3]
    assert said[1].startswith(
        "the loss of the model of round 1 is 68, 30.9 times what it was in the devices' training (2.2)"
    )
    assert said[1].endswith("try a tenth of it in fl_strategy_args")
    assert watched("FedAvg", [68.0]) == {}, "a mean of what they trained: they may have another loss in training"


def test_what_the_training_does_is_told_from_what_the_strategy_does():
    assert "try a smaller fl_learning_rate, or fewer fl_local_epochs" in watched("FedAvg", [1.0, 9.0])[2]
    momentum = watched("FedAvgM", [1.0, 9.0], arguments={"server_momentum": 0.9})[2]
    assert "FedAvgM with server_learning_rate 1 and server_momentum 0.9 moves the model too far" in momentum


@pytest.mark.parametrize(
    "losses",
    [
        [2.3, 2.0, 2.9, 4.0, 5.9],  # it goes up and down, as with devices that differ
        [2.3, 0.001, 0.9, 0.01],  # much of little is little
        [2.3, None, 2.0],
        [-5.0, -1.0, 0.5, 3.0],  # a logarithm of densities
        [0.0, 0.1],
    ],
)
def test_other_losses_are_none(losses):
    assert watched("FedAdam", losses) == {}


def test_a_run_that_goes_on_knows_the_rounds_before():
    events = [{"event": "round", "round": number, "loss": loss} for number, loss in ((1, 2.0), (2, 1.5))]
    assert list(watched("FedAvg", [9.0], events=events)) == [3]
    assert watched("FedAvg", [9.0], events=[{"event": "round", "round": 1, "loss": None}]) == {}
