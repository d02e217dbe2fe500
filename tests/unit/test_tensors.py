"""The tensor format, against the safetensors library."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from flowerbed import tensors

ARRAYS = {
    "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "counter": np.array(7),
    "half": np.array([1, 2, 3], np.float16),
    "double": np.array([[np.pi]]),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "strided": np.arange(10, dtype=np.int32)[::3],
}


def same(left, right):
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype and array.shape == right[name].shape, name
        np.testing.assert_array_equal(array, right[name])


def test_what_is_packed_comes_back():
    packed = tensors.pack(ARRAYS, {"round": "3"})
    same(tensors.unpack(packed), ARRAYS)
    assert tensors.metadata(packed) == {"round": "3"}
    assert tensors.metadata(tensors.pack(ARRAYS)) == {}


def test_the_library_reads_ours_and_we_read_the_library_s():
    same(safetensors.numpy.load(tensors.pack(ARRAYS, {"a": "b"})), ARRAYS)
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in ARRAYS.items()}
    same(tensors.unpack(safetensors.numpy.save(contiguous)), ARRAYS)


def test_a_type_the_format_does_not_know_is_refused_by_name():
    with pytest.raises(tensors.TensorError, match="'names' has type"):
        tensors.pack({"names": np.array(["a"])})


def header(content, body=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"", b"1234567", struct.pack("<Q", 1 << 60), header(b"not json"), header([]),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"12345678"),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, b"12345678"),
        header({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 8]}}, b"12345678"),
        header({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, b"12345678"),
        header({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, b"12345678"),
        header({"a": None}), header({"a": {"dtype": ["F32"], "shape": [], "data_offsets": []}}),
    ],
)  # fmt: skip
def test_bytes_that_are_no_tensors_are_refused(data):
    with pytest.raises(tensors.TensorError):
        tensors.unpack(data)


def test_no_damage_escapes_as_another_error():
    packed = bytearray(tensors.pack(ARRAYS))
    random = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(packed[: random.integers(1, len(packed) + 1)])
        for place in random.integers(0, len(damaged), 3):
            damaged[place] = random.integers(0, 256)
        try:
            tensors.unpack(bytes(damaged))
        except tensors.TensorError:
            continue
