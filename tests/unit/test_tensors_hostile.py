"""Buffers that were made to hurt: whatever they hold, they end in TensorError, and the library agrees with us."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from flowerbed import tensors

CODES = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1", "|b1"]
SHAPES = [(), (0,), (1,), (7,), (2, 0, 3), (3, 4), (1, 1, 1, 5)]


def buffer(header: object, body: bytes = b"12345678") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(**changes: object) -> bytes:
    return buffer({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes})


@pytest.mark.parametrize("code", CODES)
def test_every_type_and_shape_comes_back_and_the_library_reads_it(code):
    random = np.random.default_rng(0)
    arrays = {str(shape): random.integers(0, 2, shape).astype(code) for shape in SHAPES}
    arrays = {name: np.asarray(array, code) for name, array in arrays.items()}
    packed = tensors.pack(arrays)
    for found in (
        tensors.unpack(packed),
        safetensors.numpy.load(packed),
        tensors.unpack(safetensors.numpy.save(arrays)),
    ):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)


def test_big_endian_and_fortran_order_are_sent_as_what_they_mean():
    arrays = {
        "big": np.arange(6, dtype=">i4"),
        "turned": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    }
    found = tensors.unpack(tensors.pack(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_tensors_lie_aligned_to_their_own_items():
    arrays = {
        name: np.ones(3, code) for name, code in zip("abcdef", ["|u1", "<f2", "<f8", "<f4", "|b1", "<i8"], strict=True)
    }
    for array in tensors.unpack(bytearray(tensors.pack(arrays))).values():
        assert array.flags.aligned


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(buffer(b"[" * 100_000), id="nested too deep"),
        pytest.param(buffer(b'{"a":' * 100_000), id="objects nested too deep"),
        pytest.param(buffer(b"\xff\xfe"), id="not utf-8"),
        pytest.param(buffer(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}'), id="infinite shape"),
        pytest.param(buffer(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), id="NaN shape"),
        pytest.param(buffer(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,1e999]}}'), id="infinite offset"),
        pytest.param(entry(shape=[0, 1 << 80], data_offsets=[0, 0]), id="empty, and too large a shape"),
        pytest.param(entry(shape=[0] + [1 << 40] * 3, data_offsets=[0, 0]), id="empty, and too large a product"),
        pytest.param(entry(shape=[1] * 100 + [2]), id="too many dimensions"),
        pytest.param(entry(shape=[0] * 100, data_offsets=[0, 0]), id="empty, with too many dimensions"),
        pytest.param(entry(shape=[-1, -2]), id="negative sizes whose product fits"),
        pytest.param(entry(data_offsets=[8, 0]), id="end before begin"),
        pytest.param(entry(data_offsets=[-4, 4]), id="negative begin"),
        pytest.param(entry(data_offsets=[0, 8, 16]), id="three offsets"),
        pytest.param(entry(shape="22"), id="a shape of text"),
        pytest.param(entry(dtype="BF16"), id="a type numpy lacks"),
        pytest.param(entry(dtype={}), id="a type that is no text"),
        pytest.param(buffer({"a": []}), id="an entry that is a list"),
        pytest.param(buffer({"a": "F32"}), id="an entry that is text"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(data):
    with pytest.raises(tensors.TensorError):
        tensors.unpack(data)


@pytest.mark.parametrize("about", [[], "text", 5, {"round": 3}])
def test_metadata_of_the_wrong_kind_is_refused(about):
    with pytest.raises(tensors.TensorError):
        tensors.metadata(buffer({"__metadata__": about}))


def test_random_headers_end_in_tensors_or_in_a_tensor_error():
    random = np.random.default_rng(1)
    sizes = [-1, 0, 1, 2, 4, 8, 1 << 31, 1 << 63, 1 << 80, 2.5, None, "2", True, [2], 1e400]
    for _ in range(3000):
        pick = lambda: sizes[random.integers(len(sizes))]  # noqa: E731 - three words, used twice
        header = {
            "dtype": ["F32", "U8", "I64", "BOOL", "Q", None][random.integers(6)],
            "shape": [pick() for _ in range(random.integers(0, 4))],
            "data_offsets": [pick() for _ in range(random.integers(1, 4))],
        }
        try:
            for array in tensors.unpack(buffer({"a": header}, bytes(8))).values():
                array.sum()
        except tensors.TensorError:
            continue
