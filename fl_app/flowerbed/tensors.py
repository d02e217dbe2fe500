"""The one tensor format of the house: safetensors bytes, on the wire, in checkpoints and in models.

A small header and one buffer, whatever the number of tensors; read without a copy and without pickle. Written here
in plain numpy because a device's Python may be 3.6, which the `safetensors` package does not support.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON header, raw bytes).
"""

import json
import struct

import numpy as np

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
TYPES = frozenset(dtype.name for dtype in _NAMES)  # numpy's names of them, and torch's
MOST_BYTES = 1 << 30  # of a model on its way
_MAX_HEADER = 100 * 1024 * 1024
_MOST_DIMENSIONS = 32  # numpy's, until lately


class TensorError(ValueError):
    """The bytes are not a valid safetensors buffer, or an array has a type the format does not know."""


def too_large(size):
    """Return a sentence if a model of `size` bytes is larger than what is sent and taken, else None."""
    if size <= MOST_BYTES:
        return None
    return "the model has %.4g MB, but Flowerbed sends at most %.4g MB: make it smaller" % (
        size / 1e6, MOST_BYTES / 1e6
    )  # fmt: skip


def pack(arrays, metadata=None):
    """Return `arrays` (a dict of name to ndarray, any shapes) as one `bytes` buffer.

    `metadata` is a dict of str to str. Raises TensorError for an array whose dtype the format does not know.
    """
    return b"".join(pieces(arrays, metadata))


def pieces(arrays, metadata=None):
    """Return what `pack` does, in a list: a header, and then each array's own memory, where that is as it must be."""
    # Wide types first, so that every tensor stays aligned to its own item size.
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header = {"__metadata__": metadata} if metadata else {}
    found, offset = [], 0
    for name in order:
        array = arrays[name]
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise TensorError("tensor %r has type %s, which cannot be sent or saved" % (name, array.dtype))
        shape = list(array.shape)
        array = np.ascontiguousarray(array, dtype=dtype).reshape(-1)
        end = offset + array.nbytes
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        found.append(array.view(np.uint8).data if array.nbytes else b"")
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    return [struct.pack("<Q", len(encoded)), encoded] + found


def longest_header(arrays):
    """Return how many bytes a header of such tensors has at most, whoever writes it."""
    return sum(200 + 50 * array.ndim + len(json.dumps(name)) for name, array in arrays.items()) + (1 << 16)


def unpack(buffer, most_header=_MAX_HEADER):
    """Return the tensors of a buffer made by `pack`, as read-only views into it: a dict of name to ndarray.

    Raises TensorError when the bytes are not valid, or their header has more than `most_header`: read, it takes many
    times its own size.
    """
    header, start = _header(buffer, most_header)
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        try:
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            if len(entry["shape"]) > _MOST_DIMENSIONS:  # whose product could take hours
                raise TensorError("tensor %r has a shape that cannot be: more than %d dimensions"
                                  % (name, _MOST_DIMENSIONS))  # fmt: skip
            shape = tuple(int(size) for size in entry["shape"])
            begin, end = (int(offset) for offset in entry["data_offsets"])
        except TensorError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError):
            raise TensorError("tensor %r has a header that cannot be read" % name) from None
        count = 1
        for size in shape:
            count *= size
        if min(shape + (begin,)) < 0 or end - begin != count * dtype.itemsize or start + end > len(buffer):
            raise TensorError("tensor %r does not fit the buffer it came in" % name)
        try:
            array = np.frombuffer(buffer, dtype, count, start + begin) if count else np.empty(0, dtype)
            arrays[name] = array.reshape(shape)
        except ValueError as error:  # more dimensions, or larger ones, than numpy can do
            raise TensorError("tensor %r has a shape that cannot be: %s" % (name, error)) from None
    return arrays


def metadata(buffer):
    """Return the buffer's metadata, a dict of str to str (empty if it has none). Raises TensorError like `unpack`."""
    about = _header(buffer)[0].get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise TensorError("the tensor buffer's metadata is not an object of strings")
    return about


def _header(buffer, most=_MAX_HEADER):
    if len(buffer) < 8:
        raise TensorError("%d bytes are too few for a tensor buffer" % len(buffer))
    (length,) = struct.unpack("<Q", bytes(buffer[:8]))
    if length > most:
        raise TensorError("the tensor buffer's header has %d bytes, and at most %d are taken" % (length, most))
    if length > len(buffer) - 8:
        raise TensorError("the tensor buffer is cut short or is not in safetensors format")
    try:
        header = json.loads(bytes(buffer[8 : 8 + length]).decode("utf-8"))
    except (ValueError, RecursionError):
        raise TensorError("the tensor buffer's header is not JSON") from None
    if not isinstance(header, dict):
        raise TensorError("the tensor buffer's header is not a JSON object")
    return header, 8 + length
