import torch
from torch.nn import Flatten, Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy

from flowerbed.dataset import shards

PROCESSOR = "cuda" if torch.cuda.is_available() else "cpu"


def build_model(config):
    return Sequential(Flatten(), Linear(64, 32), ReLU(), Linear(32, config["classes"]))


def load_data(folder, config):  # to train on, and held out: images in 0 to 255, and labels; or None
    splits = shards.read_images(folder)
    return [split and [torch.from_numpy(part).to(PROCESSOR) for part in split] for split in splits]


def train(model, data, config):
    optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    for _ in range(config["local_epochs"]):
        for batch in torch.randperm(len(data[1])).split(config["batch_size"]):
            optimizer.zero_grad()
            measure(model, *(part[batch] for part in data))["loss"].backward()
            optimizer.step()
    return evaluate(model, data, config)


def evaluate(model, data, config):
    with torch.no_grad():
        return measure(model, *data)


def measure(model, images, labels):
    logits = model(images / 255)
    return {"loss": cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}
