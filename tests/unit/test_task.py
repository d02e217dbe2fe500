"""The default task, by itself: batches and channels."""

import pytest
import torch

import task

CONFIG = {"channels": 1, "classes": 2, "batch_size": 4, "local_epochs": 1, "learning_rate": 0.01}


def images(count, channels=1):
    torch.manual_seed(0)
    return torch.utils.data.TensorDataset(torch.rand(count, channels, 32, 32), torch.arange(count) % 2)


def trained(data, **changes):
    """Return the sizes of the batches, the metrics, and whether each tensor of the model has changed."""
    config = {**CONFIG, **changes}
    model, sizes = task.build_model(config), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    metrics = task.train(model, data, config)
    return sizes, metrics, [not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()]


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(3, 1, [1, 1, 1]), (1, 1, [1]), (1, 4, [1]), (8, 4, [4, 4]), (9, 4, [4, 5]), (10, 4, [4, 4, 2]), (5, 99, [5])],
)
def test_every_image_is_trained_on_whatever_the_batch_size(count, size, sizes):
    found, metrics, changed = trained(images(count), batch_size=size)
    assert found == sizes
    assert all(changed) and metrics["loss"] > 0 and 0 <= metrics["accuracy"] <= 1


def test_nothing_trained_is_an_error():
    with pytest.raises(ValueError, match="nothing was trained: there are 8 images, and local_epochs is 0"):
        trained(images(8), local_epochs=0)


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_size_below_one_is_a_sentence(size):
    with pytest.raises(ValueError, match=f"^batch_size is {size}, but must be at least 1: set it in fl_config$"):
        trained(images(8), batch_size=size)


@pytest.mark.parametrize("function", [task.train, task.evaluate])
def test_a_data_set_without_images_is_a_sentence(function):
    with pytest.raises(ValueError, match="^the data set has no images$"):
        function(task.build_model(CONFIG), images(0), CONFIG)


def test_grey_images_are_brought_to_a_model_of_colour_ones():
    data, config = images(8), {**CONFIG, "channels": 3}
    colour = torch.utils.data.TensorDataset(data.tensors[0].repeat(1, 3, 1, 1), data.tensors[1])
    model = task.build_model(config)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = []
    for each in (data, colour):
        model.load_state_dict(state)
        torch.manual_seed(1)
        results.append((task.train(model, each, config), task.evaluate(model, each, config)))
    assert results[0] == results[1]


def test_colour_images_are_brought_to_a_model_of_grey_ones_as_bright_as_they_look():
    pixels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])[:, :, None, None].expand(4, 3, 32, 32)
    grey = task._to_channels(pixels, CONFIG)
    assert grey.shape == (4, 1, 32, 32)
    assert grey[:, 0, 0, 0].tolist() == pytest.approx([0.299, 0.587, 0.114, 1])
    sizes, _, changed = trained(images(8, channels=3))
    assert sizes == [4, 4] and all(changed)


def test_channels_that_cannot_be_brought_to_the_model_are_a_sentence():
    with pytest.raises(ValueError, match="the images have 4 channels, but the model has 3: do the data and fl_config"):
        trained(images(8, channels=4), channels=3)


@pytest.mark.parametrize(
    ("steps", "sizes"), [(1, [4]), (3, [4, 5, 4]), (5, [4, 5, 4, 5, 4]), (0, [4, 5]), (None, [4, 5])]
)
def test_as_many_steps_are_done_as_are_asked_for_over_as_many_passes_as_it_takes(steps, sizes):
    found, metrics, _ = trained(images(9), **({} if steps is None else {"steps": steps}))
    assert found == sizes
    assert metrics.get("steps") == (None if steps is None else len(sizes))
