"""A model's state, as it travels: checked once, when the model is made, then written and read in every round."""

import numpy as np

from .. import tensors

_LOOKS = 10000  # of numpy, for memory that two tensors have in common


class Refused(ValueError):
    """A request that cannot be served; the message is a sentence that says why."""


def check(model):
    """Raise Refused, with the tensor's name, if what `build_model` returned holds what cannot travel."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise Refused("build_model of the task must return a torch.nn.Module, not %s" % type(model).__name__)
    entries = model.state_dict(keep_vars=True)
    own = list(model.parameters()) + list(model.buffers())
    places = set(map(id, own))
    for name, tensor in entries.items():
        if not isinstance(tensor, torch.Tensor):
            raise Refused("%s in the state of the task's model is a %s: only tensors can be sent and saved, so keep it "
                          "as a buffer" % (name, type(tensor).__name__))  # fmt: skip
        if type(tensor).__name__.startswith("Uninitialized"):
            raise Refused("tensor %s of the task's model has no shape yet: give its lazy layer a size, or use the "
                          "model once in build_model" % name)  # fmt: skip
        if id(tensor) not in places:
            raise Refused("tensor %s in the state of the task's model is neither a parameter nor a buffer of it, so "
                          "what is received could not be put there: make it one" % name)  # fmt: skip
        _check_type(name, tensor)
        if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride())):
            raise Refused("tensor %s of the task's model is expanded: many of its elements are one place in memory, so "
                          "append .clone()" % name)  # fmt: skip
    _check_memory(entries)


def learnt(model):
    """Return the names of the tensors that are learnt: parameters, under all of their names where weights are tied."""
    parameters = list(model.parameters())
    places = set(map(id, parameters))
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in places}


def frozen(model):
    """Return the names of the tensors that training leaves alone, by the model: parameters that require no gradient.

    With them go the buffers of a layer all of whose own parameters are so.
    """
    still = {id(tensor) for tensor in model.parameters() if not tensor.requires_grad}
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and all(id(tensor) in still for tensor in own):
            still.update(id(tensor) for tensor in module.buffers(recurse=False))
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in still}


def tied(model):
    """Return the names of each tensor that has several, sorted: of weights that are tied."""
    names = {}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        names.setdefault(id(tensor), []).append(name)
    return sorted(group for group in names.values() if len(group) > 1)


def shapes(model):
    """Return the shape of each tensor by its name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def read(model, expected):
    """Return the tensors as a dict of name to ndarray. Raises Refused if their shapes are not the `expected` ones."""
    state = model.state_dict()
    if set(state) != set(expected):
        raise Refused("train of the task added tensors to the model, or took some away: %s"
                      % ", ".join(sorted(set(state) ^ set(expected))[:5]))  # fmt: skip
    for name, tensor in state.items():
        if tuple(tensor.shape) != expected[name]:
            raise Refused("train of the task changed the shape of tensor %s from %s to %s: what is sent and saved must "
                          "keep its shape" % (name, expected[name], tuple(tensor.shape)))  # fmt: skip
        _check_type(name, tensor)
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def write(model, arrays):
    """Put arrays into the model. Raises Refused if their names or shapes are not the model's."""
    import torch

    state = model.state_dict()
    if set(state) != set(arrays):
        differing = sorted(set(state) ^ set(arrays))
        raise Refused("the tensors sent are not those of this task's model; they differ in %s" % differing[:5])
    with torch.no_grad():
        for name, tensor in state.items():
            array = arrays[name]
            if tuple(tensor.shape) != array.shape:
                raise Refused("tensor %s has shape %s, but this task's model wants %s"
                              % (name, array.shape, tuple(tensor.shape)))  # fmt: skip
            if not tensor.is_floating_point() and array.dtype.kind == "f":
                array = np.rint(array)  # an average of counters
            tensor.copy_(torch.from_numpy(array if array.flags.writeable else np.array(array)))


def _check_type(name, tensor):
    kind = str(tensor.dtype).replace("torch.", "")
    if "strided" not in str(tensor.layout):
        kind = str(tensor.layout).replace("torch.", "")
    if kind not in tensors.TYPES:
        raise Refused("tensor %s of the task's model has type %s, which can be neither sent nor saved: use another, "
                      "such as float32" % (name, kind))  # fmt: skip


def _check_memory(entries):
    """Refuse two tensors over one place in memory: averaged apart they differ, and one would overwrite the other."""
    spans = []
    for name, tensor in entries.items():
        if tensor.numel() and tensor.device.type == "cpu":
            length = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
            spans.append((tensor.data_ptr(), tensor.data_ptr() + length * tensor.element_size(), name))
    spans.sort()
    for index, (_, end, name) in enumerate(spans):
        for begin, _, other in spans[index + 1 :]:
            if begin >= end:
                break
            if entries[name] is not entries[other] and _share(entries[name], entries[other]):
                raise Refused("tensors %s and %s of the task's model share memory: make them one parameter, or append "
                              ".clone() to one" % tuple(sorted((name, other))))  # fmt: skip


def _share(one, other):
    try:
        return np.shares_memory(one.detach().numpy(), other.detach().numpy(), max_work=_LOOKS)
    except RuntimeError:  # numpy's TooHardError: they interleave in a way that nobody makes by mistake
        return False
