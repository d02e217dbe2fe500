"""fl_initial: what of a file, or of another experiment's model, an experiment begins with, and what it refuses."""

import json
import re

import numpy as np
import pytest

from flowerbed import tensors
from flowerbed.rounds import initial
from flowerbed.rounds.config import RunFailed

BUILT = {
    "body.weight": np.zeros((3, 2), np.float32),
    "body.bias": np.zeros(3, np.float32),
    "count": np.array(0),
    "mask": np.array([0, -np.inf], np.float32),
    "head.weight": np.zeros((10, 3), np.float32),
}


def place(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tensors.pack({name.replace("_", "."): array for name, array in arrays.items()}))
    return path


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def test_the_same_names_and_shapes_are_taken_in_the_model_s_own_types_and_the_rest_stays(tmp_path):
    file = place(
        tmp_path / "before.safetensors",
        body_weight=ones(3, 2, dtype=np.float64), body_bias=ones(3), count=np.array(7, np.int32),
        mask=np.array([1, -np.inf], np.float32), head_weight=ones(100, 3), old_a=ones(1), old_b=ones(1),
    )  # fmt: skip
    model, said = initial.load(str(file), BUILT, [])
    assert {name: (array.dtype, array.shape) for name, array in model.items()} == {
        name: (array.dtype, array.shape) for name, array in BUILT.items()
    }
    wanted = {"body.weight": 1, "body.bias": 1, "count": 7, "head.weight": 0}
    assert all((model[name] == value).all() for name, value in wanted.items())
    np.testing.assert_array_equal(model["mask"], [1, -np.inf])
    assert said == (
        f"the first model has 4 of its 5 tensors from {file}; 1 of another shape stays as built (head.weight, 10×3 "
        "here and 100×3 there); 2 of its own are of no use (old.a, old.b)"
    )


def test_of_tied_weights_a_file_has_one_name(tmp_path):
    built = {"embed": np.zeros((4, 2), np.float32), "out": np.zeros((4, 2), np.float32), "bias": np.zeros(4)}
    file = place(tmp_path / "a.safetensors", embed=ones(4, 2))
    model, said = initial.load(str(file), built, [["embed", "out"]])
    assert (model["out"] == 1).all() and (model["embed"] == 1).all()
    assert said.endswith("; 1 that it lacks stays as built (bias)")


def test_an_experiment_s_best_model_is_taken_else_its_last(tmp_path):
    place(tmp_path / "model/last.safetensors", body_bias=ones(3))
    assert initial.load(str(tmp_path), BUILT, [])[0]["body.bias"][0] == 1
    place(tmp_path / "model/best.safetensors", body_bias=2 * ones(3))
    assert initial.load(str(tmp_path), BUILT, [])[0]["body.bias"][0] == 2


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"a": ones(1), "head_weight": ones(3, 10)},
            "is of another model: it has 2 tensors (a, head.weight), and the task's model has 5 tensors (body.weight, "
            "body.bias, count …), of which none has the same name and shape",
        ),
        ({}, "is of another model: it has 0 tensors, and"),
        ({"body_bias": np.array([1, np.nan, 2], np.float32)}, "holds NaN or infinite values (as float32) in body.bias"),
        ({"body_bias": np.array([1, 1e300, 2])}, "holds NaN or infinite values (as float32) in body.bias"),
        ({"count": np.array(0.5)}, "holds values that no int64 can be in count"),
    ],
)
def test_what_cannot_be_begun_from_is_a_sentence(tmp_path, arrays, sentence):
    file = place(tmp_path / "a.safetensors", **arrays)
    with pytest.raises(RunFailed, match=re.escape(f"fl_initial: {file} {sentence}")):
        initial.load(str(file), BUILT, [])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a file of torch.save", b"\xff" * 100])
def test_a_file_of_another_format_is_a_sentence(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(RunFailed, match="model.safetensors cannot be used .*: save the model's state_dict with save_"):
        initial.load(str(file), BUILT, [])


def test_what_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(RunFailed, match="fl_initial: /nowhere is not there: give the path of a .safetensors file, or"):
        initial.load("/nowhere", BUILT, [])
    with pytest.raises(RunFailed, match="fl_initial: the experiment .* has no model yet"):
        initial.load(str(tmp_path), BUILT, [])


def test_an_experiment_that_has_begun_goes_on_with_its_own_first_model():
    def started(path, first=1):
        return json.loads(json.dumps({"event": "run-started", "first_round": first, "initial": path}))

    for events in ([started("/a")], [started(""), started("/a"), started("", first=2)]):
        initial.check_begun("/a", "trial", events)
        initial.check_begun("", "trial", events)
        with pytest.raises(RunFailed, match="experiment trial has begun with another first model, so fl_initial"):
            initial.check_begun("/b", "trial", events)
    for events in ([], [{"event": "run-started", "first_round": 1}], [started("/a"), started("")]):
        initial.check_begun("", "trial", events)
        with pytest.raises(RunFailed, match="has begun"):
            initial.check_begun("/a", "trial", events)
