"""What stays warm between rounds: torch, the task, the data and the model; and the jobs done with them."""

import gc
import json
import os
import platform
import random
import time
import warnings
import zlib

import numpy as np

from .. import memory, privacy, tensors
from ..dataset import DatasetError, DatasetWarning, shards
from ..metrics import MetricError, checked
from ..words import clean
from . import compiler, keep, processors, requirements, state
from . import task as tasks
from .slots import Slots
from .state import Refused
from .surroundings import Surroundings, set_torch

RETRY_SECONDS = 2
# What may change from one call to the next; whatever else does begins anew, see `_begin`.
_PASSING = ("round", "rounds", "task_hash", "fingerprint", "steps")


class Worker:
    """The trainer's state and its jobs. All methods but `health` run on the jobs thread.

    `config` is the content of trainer.json: name, task (path), data (folder), whether that is a shard, made by a
    deployment, how much of it (MiB) may be in memory, threads (0: as many as there are processors, or 1 where trainers
    take turns), slots (see Slots), image (where it runs in one), the options that the task receives besides a run's
    configuration, config, a JSON file with what it receives before there is a run, and privacy (fl_privacy), which
    holds whatever a run asks for.
    """

    def __init__(self, config):
        self.config = config
        self.name = config["name"]
        self.ready = False
        self.problem = None
        self._begun = self._tried = 0.0  # the last warm-up: its begin and its end, on a clock that nobody sets
        task_hash = tasks.task_hash(config["task"]) if os.path.exists(config["task"]) else None
        self.facts = {"task_hash": task_hash, "fingerprint": None, "warnings": []}
        self.train_data = self.heldout_data = None
        shared = bool(config.get("slots"))
        self._privacy = privacy.parse(config.get("privacy") or {})
        self.threads = int(config.get("threads", 0)) or (1 if shared else processors.count())
        self.slots = Slots(config.get("slots"), self.threads)
        self._torch = self._task = self._device = self._model = None
        self._model_bytes = 0  # of the last one
        self._served = None  # the configuration of the calls since the last warm-up
        self._state = None  # the folder for what the task keeps
        self._interrupted = False
        self._surroundings = Surroundings()

    def try_again(self):
        """Return whether it is time to warm up anew: what was wrong may have been put right since."""
        if self._interrupted:
            self._interrupted = False
            return True
        if not self.problem or time.monotonic() < self._tried + RETRY_SECONDS:
            return False
        self.problem = None
        return True

    def warm_up(self, told=None):
        """Import torch, and the task and its data anew. On failure `problem` says why, and the trainer stays up.

        `told` is what the task receives; without it, what a deployment knows.
        """
        try:  # from the first line on: whatever it interrupts, a cancelled warm-up is done again
            self._begun = time.monotonic()
            self._tried = float("inf")  # until it has been
            self.ready = False
            self._task = self._model = self._served = self.train_data = self.heldout_data = None
            gc.collect()  # no room for the data twice; a module is a cycle
            self._surroundings.restore()
            requirements.use()
            # CUDA reads it when it starts; without it, a task that asks torch for deterministic algorithms is refused.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            import torch

            self._torch = torch
            compiler.stand_in()
            set_torch(torch, self.threads)
            self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            told = told or self._told(dict(self._deployed(), experiment="", round=0, rounds=0))
            self._seed(dict(told, round=0))  # whatever a task draws to split or shuffle its data, it draws again
            self._check_requirements()
            self._task = tasks.load(self.config["task"])
            if self.config.get("shard"):  # a user's own data may be of any size, and nothing is compared with it
                self.facts["fingerprint"] = shards.fingerprint(self.config["data"])
            if self.config["data"]:  # a server may have no test set
                self.train_data, self.heldout_data = self._load_data(told)
            self.facts.update(torch=torch.__version__, device=str(self._device), classes=_classes(self.train_data))
            self.ready = True
        except ImportError as error:
            self.problem = "torch cannot be imported: %s" % error if self._torch is None else str(error)
        except DatasetError as error:
            self.problem = "%s: run deploy.yml again" % error if self.config.get("shard") else str(error)
        except (Refused, OSError, ValueError) as error:
            self.problem = str(error)
        except MemoryError:
            self.problem = "there is not enough memory to load the data: use less data, or a smaller image size"
        except (Exception, SystemExit) as error:
            self.problem = "load_data of the task failed: %s: %s" % (type(error).__name__, error)
        except BaseException:  # cancelled
            self._interrupted = True
            raise
        self._tried = time.monotonic()

    def health(self, busy):
        """Return what the trainer is and has, as a dict for JSON. What memory it has left is without its model."""
        held = 0 if self._model is None else self._model_bytes
        machine, container = (None if left is None else left + held for left in memory.left())
        return dict(
            self.facts, name=self.name, ready=self.ready, problem=self.problem, busy=busy, pid=os.getpid(),
            tried=self._begun, threads=self.threads,
            python=platform.python_version(), numpy=np.__version__, peak_memory_bytes=memory.peak_memory(),
            memory_left=machine, container_memory_left=container,
            examples=_examples(self.train_data), heldout_examples=_examples(self.heldout_data),
        )  # fmt: skip

    def initial(self, body, config):
        """Return a new model's tensors, made from `config["seed"]`; the metrics name buffers, the tied, the frozen."""
        config = self._begin(config)
        self._seed(config)
        self._model = None
        model = self._prepare_model(config)
        arrays = state.read(model, state.shapes(model))
        return tensors.pack(arrays), {
            "buffers": json.dumps(sorted(set(arrays) - state.learnt(model))), "tied": json.dumps(state.tied(model)),
            "frozen": json.dumps(sorted(state.frozen(model))),
        }  # fmt: skip

    def train(self, body, config):
        """Train on the device's training data from the tensors in `body`; return the trained tensors and metrics.

        Of these, `tried` is as in `health`: by it one trainer is told from the next on its socket.
        """
        config = self._begin(config)
        examples = _examples(self.train_data)
        if not examples:
            raise Refused("%s has no training examples in %s" % (self.name, self.config["data"]))
        private = self._private(config)
        memory.reset_peak_memory()
        model, seconds_load = self._load(body, config, keep=private is not None)
        started = time.monotonic()
        shapes, frozen = state.shapes(model), state.frozen(model)
        metrics = self._task.train(model, self.train_data, config)
        seconds_train = time.monotonic() - started
        for parameter in model.parameters():
            parameter.grad = None  # as large as the parameter
        try:
            arrays = state.read(model, shapes)
        except Refused:
            self._served = ()  # which nothing is: the next call begins with another model
            raise
        if private:
            before = tensors.unpack(body)  # in place of which the update comes
            names = privacy.moved(arrays, set(arrays) - state.learnt(model), frozen, state.tied(model))
            try:
                privacy.blur(before, arrays, names, **private)
            except ValueError as error:
                raise Refused("train of the task made %s" % error) from None
            for name, *others in state.tied(model):
                for other in others:
                    before[other][...] = before[name]
        return body if private else tensors.pack(arrays), {
            "metrics": _measured("train", metrics), "examples": examples, "seconds_load": seconds_load,
            "seconds_train": seconds_train, "peak_memory_bytes": memory.peak_memory(), "tried": self._begun,
        }  # fmt: skip

    def evaluate(self, body, config):
        """Evaluate the tensors in `body` on the held-out data; return no tensors, and metrics."""
        config = self._begin(config)
        examples = _examples(self.heldout_data)
        if not examples:
            raise Refused("%s has no held-out examples in %s" % (self.name, self.config["data"]))
        model, seconds_load = self._load(body, config)
        started = time.monotonic()
        metrics = self._task.evaluate(model, self.heldout_data, config)
        return b"", {
            "metrics": _measured("evaluate", metrics), "examples": examples, "seconds_load": seconds_load,
            "seconds_evaluate": time.monotonic() - started, "tried": self._begun,
        }  # fmt: skip

    def check(self, config):
        """Refuse work while not ready, or for another task or other data than this trainer's."""
        if self.problem:
            raise Refused("the trainer of %s is not usable: %s" % (self.name, self.problem))
        wanted = config.get("task_hash")
        if wanted and wanted != self.facts["task_hash"]:
            raise Refused("%s has task code %s, but this run is of %s: run deploy.yml to bring it up to date"
                          % (self.name, self.facts["task_hash"], wanted))  # fmt: skip
        if config.get("fingerprint", self.facts["fingerprint"]) != self.facts["fingerprint"]:
            raise Refused("%s has data of another deployment (%s, but this run is of %s): run deploy.yml"
                          % (self.name, self.facts["fingerprint"], config["fingerprint"]))  # fmt: skip

    def _begin(self, config):
        """Return what the task receives with a call; a module as if freshly imported has another experiment, or config.

        For a module may hold what belongs to its last model, such as an optimiser. With it come data and a model of its
        own: what was read at a deployment was read without a run's configuration.
        """
        wanted = {key: value for key, value in config.items() if key not in _PASSING}
        if self.ready and self._served == wanted:
            return self._told(config, self._state)
        told = self._told(config)
        if os.path.exists(self.config["task"]) and tasks.task_hash(self.config["task"]) != self.facts["task_hash"]:
            raise Refused("the code of %s has changed since its trainer started: run deploy.yml" % self.name)
        before = dict(self.facts)
        self.warm_up(told)
        self.check(config)
        if self.facts["classes"] != before.get("classes", self.facts["classes"]):
            raise Refused("the data of %s has other classes than it told, %s: run again, so that they are compared"
                          % (self.name, clean(self.facts["classes"], 80)))  # fmt: skip
        self._served = wanted
        return told

    def _private(self, config):
        """Return how an update is clipped and blurred before it leaves (None: not at all).

        As the run asks; but no less than was deployed to this device, whatever its server sends.
        """
        try:
            return privacy.stronger(privacy.parse(config.get("privacy") or {}), self._privacy)
        except ValueError as error:
            raise Refused("fl_privacy %s" % error) from None

    def _deployed(self):
        path = self.config.get("config")
        if not path:
            return {}
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    def _check_requirements(self):
        path, image = os.path.join(self.config["task"], requirements.FILE), self.config.get("image")
        lacking = requirements.lacking(path) if os.path.isfile(path) else []
        if lacking and image:
            raise Refused("the task needs %s (%s), which the image %s has not: build one with it, as docs/tasks.md "
                          "shows, and set trainer_image" % (", ".join(lacking), requirements.FILE, image))  # fmt: skip
        if lacking:
            raise Refused("the task needs %s (%s), which this Python has not: run deploy.yml, which installs it"
                          % (", ".join(lacking), requirements.FILE))  # fmt: skip

    def _told(self, config, folder=None):
        """Return what the task's functions receive: `config`, who this is, and the folder for what is to last."""
        try:
            self._state = folder or keep.folder(config.get("experiment_id") or "")
        except (OSError, ValueError) as error:
            raise Refused("%s cannot keep a task's state in %s (%s): make room there, or give access"
                          % (self.name, os.path.abspath(keep.FOLDER), getattr(error, "strerror", None) or error)
                          ) from None  # fmt: skip
        return dict(self.config.get("options", {}), **dict(config, device=self.name, state=self._state))

    def _load_data(self, told):
        shards.limit = self.config.get("limit", shards.limit)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DatasetWarning)
            data = self._task.load_data(self.config["data"], dict(told))
        self.facts["warnings"] = [str(each.message) for each in caught if each.category is DatasetWarning]
        for each in caught:
            if each.category is not DatasetWarning:
                warnings.showwarning(each.message, each.category, each.filename, each.lineno)
        pair = isinstance(data, (tuple, list)) and len(data) == 2
        try:
            counts = [_examples(part) for part in data] if pair else []
        except TypeError:
            counts = []
        if not counts:
            raise ValueError("load_data of the task must return two data sets (to train on, held out), "
                             "each with a length, or None")  # fmt: skip
        return data

    def _load(self, body, config, keep=False):
        started = time.monotonic()
        model = self._prepare_model(config)
        state.write(model, tensors.unpack(body))
        if isinstance(body, bytearray) and not keep:  # a request's own: what is in it, the model has now
            body.clear()
        self._seed(config)  # last: a model that had to be built drew random numbers
        return model, time.monotonic() - started

    def _prepare_model(self, config):
        if self._model is None:
            model = self._task.build_model(config)
            state.check(model)
            self._model_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
            self._model = model.to(self._device)
        return self._model

    def _seed(self, config):
        """Make everything random follow from the experiment's seed, the round and the device's name."""
        text = "%s/%s/%s" % (config.get("seed", 0), config.get("round", 0), self.name)
        seed = zlib.crc32(text.encode("utf-8"))
        random.seed(seed)
        np.random.seed(seed)
        self._torch.manual_seed(seed)


def _examples(data):
    """Return how many examples a data set holds. Raises TypeError if it does not say."""
    if data is None:
        return 0
    if hasattr(data, "batch_sampler") and hasattr(data, "sampler"):  # a DataLoader, whose own length counts batches
        from torch.utils.data import IterableDataset

        source = getattr(data, "dataset", None)
        return len(source if isinstance(source, IterableDataset) else data.sampler)
    rows = _rows(data)
    return len(data) if rows is None else rows


def _rows(data):
    """Return the length of the arrays that together are a data set, such as images and labels; None if it is none."""
    if not isinstance(data, (dict, tuple, list)):
        return None
    shapes = [getattr(part, "shape", ()) for part in (data.values() if isinstance(data, dict) else data)]
    if isinstance(data, list) and len(data) > 2 and len(set(map(len, shapes))) == 1:
        return None  # a list of examples, such as images
    lengths = {shape[:1] for shape in shapes}
    if isinstance(data, dict) and any(lengths) and len(lengths) > 1:
        rows = ", ".join("%s %s" % (name, shape[0] if shape else "none") for name, shape in zip(data, shapes))
        raise ValueError("the arrays that load_data of the task returned have unequal numbers of rows (%s), so nobody "
                         "knows how many examples they are: leave out what has no row for each" % rows)  # fmt: skip
    return lengths.pop()[0] if len(lengths) == 1 and () not in lengths else None


def _classes(data):
    """Return the names of the classes that a data set tells, or the one which it loads or is a part of; or None."""
    while data is not None and not hasattr(data, "classes"):
        data = getattr(data, "dataset", None)
    classes = getattr(data, "classes", None)
    return [str(name) for name in classes] if isinstance(classes, (list, tuple, np.ndarray)) else None


def _measured(function, metrics):
    """Return what a task's function measured, checked."""
    try:
        return checked(metrics)
    except MetricError as error:
        raise Refused("%s of the task returned %s" % (function, error)) from None
