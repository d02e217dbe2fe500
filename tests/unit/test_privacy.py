"""fl_privacy: what an update is before it leaves, what the aggregate of many is, and what the accountant says of it."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed import privacy
from flowerbed.rounds import private
from flowerbed.rounds.config import RunFailed
from flowerbed.rounds.strategy import Aggregation, names

FULL = {"clip": 1.0, "noise": 0.5, "where": "device", "delta": 1e-5}


def state(seed, scale=1.0, dtype=np.float32):
    drawn = np.random.default_rng(seed)
    return {
        "conv.weight": (scale * drawn.normal(size=(40, 25))).astype(dtype),
        "bn.running_var": (1 + scale * drawn.uniform(size=7)).astype(dtype),
        "bn.num_batches_tracked": np.array(drawn.integers(1, 100)),
        "mask": np.array([0, -np.inf], dtype),
    }


MOVED = ["bn.running_var", "conv.weight"]


def flat(before, after):
    return np.concatenate([(after[name].astype(np.float64) - before[name]).reshape(-1) for name in MOVED])


def distance(before, after):
    return float(np.linalg.norm(flat(before, after)))


# -- The variable ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "is 3, but must be a mapping such as {clip: 1, noise: 0.5}"),
        ({"clip": 1}, "lacks noise: give clip and noise"),
        ({"noise": 1, "delta": 0.1}, "lacks clip: give clip and noise"),
        ({**FULL, "epsilon": 1}, "has 'epsilon', but may have clip, noise, where, delta"),
        ({**FULL, "clip": 0}, "has clip 0, but it must be a number above 0"),
        ({**FULL, "clip": "x"}, "has clip 'x', but it must be a number above 0"),
        ({**FULL, "clip": math.inf}, "has clip inf, but it must be a number above 0"),
        ({**FULL, "clip": True}, "has clip True, but it must be a number above 0"),
        ({**FULL, "noise": -1}, "has noise -1, but it must be a number of at least 0"),
        ({**FULL, "noise": [1]}, "has noise [1], but it must be a number of at least 0"),
        ({**FULL, "noise": 10**400}, "has noise 1000000000"),
        ({**FULL, "where": "cloud"}, "has where 'cloud', but it must be device or server"),
        ({**FULL, "delta": 1}, "has delta 1, but it must be a number above 0 and below 1"),
    ],
)
def test_a_wrong_value_is_a_sentence(value, text):
    with pytest.raises(ValueError) as caught:
        privacy.parse(value)
    assert str(caught.value).startswith(text)


NAMES = st.sampled_from(["clip", "noise", "where", "delta", "other"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@settings(derandomize=True, deadline=None)
@drawn(JSON)
def test_whatever_is_given_is_taken_or_refused(value):
    try:
        taken = privacy.parse(value)
    except ValueError as error:
        assert len(str(error)) < 120
    else:
        assert taken is None or (taken["clip"] > 0 <= taken["noise"] < math.inf and 0 < taken["delta"] < 1)


def test_what_is_not_given_has_a_default_and_text_is_a_number():
    assert privacy.parse({"clip": "1e0", "noise": 0.5}) == FULL
    assert privacy.parse({}) is None


def test_a_device_does_no_less_than_it_was_deployed_with():
    weak, strong = {**FULL, "clip": 2.0}, {**FULL, "noise": 0.25}
    assert privacy.stronger(weak, strong) == {"clip": 1.0, "noise": 0.5}
    assert privacy.stronger(None, strong) == {"clip": 1.0, "noise": 0.25} == privacy.stronger(strong, None)
    assert privacy.stronger({**FULL, "where": "server"}, None) is None


def test_what_training_moves():
    arrays = {**state(0), "head.weight": np.zeros(2), "tie.weight": np.zeros(2), "frozen": np.zeros(2)}
    buffers = {"bn.running_var", "bn.num_batches_tracked", "mask"}
    found = privacy.moved(arrays, buffers, {"frozen"}, [["head.weight", "tie.weight"]])
    assert found == [*MOVED, "head.weight"]


# -- An update ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("clip", [1e-3, 0.3, 7.0])
def test_a_longer_update_is_clipped_to_its_length_and_never_beyond(clip, dtype):
    for seed in range(20):
        before, after = state(seed, dtype=dtype), state(100 + seed, dtype=dtype)
        clipped, length = privacy.shortened(before, after, MOVED, clip)
        assert length == pytest.approx(distance(before, after))
        assert distance(before, clipped) <= clip * (1 + 1e-12)
        assert (
            clipped["mask"] is before["mask"] and clipped["bn.num_batches_tracked"] == before["bn.num_batches_tracked"]
        )
        if dtype is not np.float16:  # in which a small step is lost
            assert distance(before, clipped) == pytest.approx(clip, rel=1e-2)
            way, whole = (flat(before, each) for each in (clipped, after))
            assert way @ whole / np.linalg.norm(way) / np.linalg.norm(whole) == pytest.approx(1, rel=1e-3)


def test_a_shorter_update_stays_as_it_is():
    before = state(1)
    after = {**before, "conv.weight": before["conv.weight"] + np.float32(0.001)}
    clipped, length = privacy.shortened(before, after, MOVED, length := 1.0)
    assert all(np.array_equal(clipped[name], after[name]) for name in after)


def test_noise_has_its_deviation_and_follows_from_no_seed():
    def drawn():
        np.random.seed(1)
        random.seed(1)
        return privacy.normal(200_001)

    one, other = drawn(), drawn()
    assert len(one) == 200_001 and abs(np.corrcoef(one, other)[0, 1]) < 0.02
    both = np.concatenate([one, other])
    assert abs(both.mean()) < 0.01 and both.std() == pytest.approx(1, rel=0.01)
    assert (np.abs(both) > 1.959964).mean() == pytest.approx(0.05, rel=0.05)
    assert (np.abs(both) > 3.290527).mean() == pytest.approx(0.001, rel=0.3)


def test_what_leaves_a_device_is_clipped_and_has_noise_and_the_rest_is_what_came():
    before, after = state(1, scale=10), state(2, scale=10)
    left = {name: array.copy() for name, array in before.items()}
    privacy.blur(left, after, MOVED, clip=0.5, noise=4.0)
    expected, _ = privacy.shortened(before, after, MOVED, 0.5)
    noise = left["conv.weight"].astype(np.float64) - expected["conv.weight"]
    assert noise.std() == pytest.approx(4.0 * 0.5, rel=0.1) and abs(noise.mean()) < 0.3
    assert np.array_equal(left["mask"], before["mask"])
    assert left["bn.num_batches_tracked"] == before["bn.num_batches_tracked"]


def test_an_update_that_diverged_does_not_leave():
    before, after = state(1), state(2)
    after["conv.weight"][3, 3] = np.nan
    kept = before["conv.weight"].copy()
    with pytest.raises(ValueError, match="an update of length nan, which is not a finite number"):
        privacy.blur(before, after, MOVED, 1.0, 1.0)
    assert np.array_equal(before["conv.weight"], kept)


# -- The aggregate of many ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["device", "server"])
@pytest.mark.parametrize("strategy", ["FedAvg", "FedAvgM"])
def test_the_aggregate_is_the_mean_of_clipped_updates_with_the_noise_that_is_accounted_for(tmp_path, where, strategy):
    """Noise of the mean: σ C √Σ p² where each device adds its own, σ C max p where the server does."""
    count, clip, noise = 60, 2.0, 3.0
    before = {**state(0), "mask": np.zeros(2, np.float32)}
    raw = {f"d{index}": state(1 + index) for index in range(count)}
    raw = {name: {**update, "mask": before["mask"]} for name, update in raw.items()}
    shares = dict(zip(raw, np.random.default_rng(5).dirichlet(np.ones(count)).tolist(), strict=True))
    given = privacy.parse({"clip": clip, "noise": noise, "where": where})
    server = private.Privacy(given, private.Accountant(tmp_path, begun=False), MOVED, [])
    updates = {}
    for name, update in raw.items():
        if where == "device":
            sent = {name: array.copy() for name, array in before.items()}
            privacy.blur(sent, update, MOVED, clip, noise)
        else:
            sent = update
        updates[name], length = server.clipped(before, sent)
        assert (length is None) == (where == "device")
    server.blur(updates, shares)
    arguments = {"server_momentum": 0.5} if strategy == "FedAvgM" else {}
    aggregation = Aggregation(strategy, arguments, {"bn.running_var", "bn.num_batches_tracked", "mask"}, noisy=True)
    aggregation.choose("train", 1, before, list(range(count)), seed=0)
    told = {name: (updates[name], {"weight": shares[name], "loss": 1.0}) for name in updates}
    after = aggregation.aggregate(1, before, told)
    clipped = [privacy.shortened(before, update, MOVED, clip)[0]["conv.weight"] for update in raw.values()]
    mean = sum(share * update.astype(np.float64) for share, update in zip(shares.values(), clipped, strict=True))
    found = (after["conv.weight"] - mean).std()
    wanted = noise * clip * (max(shares.values()) if where == "server" else math.hypot(*shares.values()))
    assert found == pytest.approx(wanted, rel=0.1)
    assert (after["bn.running_var"] >= 0).all()
    np.testing.assert_allclose(after["bn.num_batches_tracked"], before["bn.num_batches_tracked"])


def test_tied_tensors_have_the_same_noise(tmp_path):
    weight = np.zeros((30, 30), np.float32)
    before = {"a": weight, "b": weight}
    given = privacy.parse({"clip": 1, "noise": 1, "where": "server"})
    server = private.Privacy(given, private.Accountant(tmp_path, begun=False), ["a"], [["a", "b"]])
    updates = {"d0": server.clipped(before, {"a": weight + 1, "b": weight + 1})[0]}
    assert distance_of(updates["d0"]["a"]) == pytest.approx(1) and np.array_equal(*updates["d0"].values())
    server.blur(updates, {"d0": 1.0})
    assert distance_of(updates["d0"]["a"]) > 10 and np.array_equal(*updates["d0"].values())


def distance_of(array):
    return float(np.linalg.norm(array))


def test_the_server_blurs_a_mean_and_nothing_else():
    assert {name for name in names() if private.unfit("server", name) is None} == set(private.OF_THE_MEAN)
    assert {name for name in names() if private.unfit("device", name)} == {"QFedAvg"}
    assert "Krum takes another: choose one of FedAdagrad" in private.unfit("server", "Krum")


# -- The accountant ----------------------------------------------------------------------------------------------------


def test_epsilon_is_that_of_the_accountant_s_published_example():
    """Three Gaussians of multiplier √3 have ε = 1 at δ = 0.126936: test_gaussian_basic of dp-accounting's own tests

    (google/differential-privacy, python/dp_accounting/dp_accounting/pld/pld_privacy_accountant_test.py).
    """
    assert private.epsilon({math.sqrt(3): 3}, 0.126936) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("answers", [{1.0: 1}, {0.5: 10, 2.0: 3}, {0.05: 300}, {30.0: 2}])
def test_epsilon_fits_the_exact_formula_of_the_gaussian_mechanism(answers):
    """Balle and Wang, 2018, arXiv:1805.06530, theorem 8."""
    found = private.epsilon(answers, 1e-5)
    mu = math.sqrt(sum(count / multiplier**2 for multiplier, count in answers.items()))

    def log_below(x):  # of the normal distribution, also where it is tiny
        return (
            math.log(math.erfc(-x / math.sqrt(2)) / 2)
            if x > -37
            else -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi))
        )

    second = found + log_below(-mu / 2 - found / mu)
    delta = math.exp(log_below(mu / 2 - found / mu)) - math.exp(second)
    assert delta == pytest.approx(1e-5, rel=0.01)


def test_the_table_of_the_page_is_the_accountant_s():
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    rows = page.partition("| `noise` | on the device | at the server |\n|---|---|---|\n")[2].partition("\n\n")[0]
    for row in rows.splitlines():
        noise, *places = [cell.strip() for cell in row.strip("|").split("|")]
        for factor, cell in zip((0.5, 1), places, strict=True):
            found = [private.epsilon({float(noise) * factor: rounds}, privacy.DELTA) for rounds in (1, 10, 100)]
            assert cell == ", ".join(f"{each:.1f}" for each in found)
    assert rows.count("\n") == 2


def test_without_noise_there_is_no_bound_and_without_answers_nothing_is_spent():
    assert private.epsilon({0.0: 1}, 1e-5) is None and private.epsilon({1e-200: 1}, 1e-5) is None
    assert private.epsilon({}, 1e-5) == 0


def test_the_accountant_goes_on_counting(tmp_path):
    first = private.Accountant(tmp_path, begun=False)
    first.count(["d0", "d1"], 0.5)
    second = private.Accountant(tmp_path, begun=True)
    second.count(["d0"], 0.5)
    second.count(["d0"], 2.0)
    third = private.Accountant(tmp_path, begun=True)
    assert third.answers == {"d0": {0.5: 2, 2.0: 1}, "d1": {0.5: 1}}
    assert third.epsilon(1e-5) == private.epsilon({0.5: 2, 2.0: 1}, 1e-5) > private.epsilon({0.5: 1}, 1e-5)


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"answers": 3}', '{"answers": {"d0": {"x": 1}}}'])
def test_what_was_spent_must_be_known(tmp_path, content):
    if content is not None:
        (tmp_path / private.FILE).write_text(content)
    with pytest.raises(RunFailed, match="which counts what fl_privacy has spent, cannot be used .*: restore it, or"):
        private.Accountant(tmp_path, begun=True)


def test_a_device_spends_what_its_place_asks_for(tmp_path):
    """Where devices add noise, two data sets of a device are compared: their updates may be 2 clip apart."""
    for where, multiplier in (("device", 1.0), ("server", 2.0)):
        (tmp_path / where).mkdir()
        accountant = private.Accountant(tmp_path / where, begun=False)
        server = private.Privacy(privacy.parse({"clip": 3, "noise": 2, "where": where}), accountant, MOVED, [])
        server.spend(["d0", "d1"])
        assert json.loads((tmp_path / where / private.FILE).read_text())["answers"]["d1"] == {str(multiplier): 1}
        assert server.spent() == {
            "where": where, "clip": 3, "noise": 2, "delta": 1e-5, "epsilon": private.epsilon({multiplier: 1}, 1e-5)
        }  # fmt: skip
        assert f"ε is {server.spent()['epsilon']:.3g} so far" in server.remark()
