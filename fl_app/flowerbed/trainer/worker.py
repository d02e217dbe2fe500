"""What stays warm between rounds: torch, the task, the data and the model; and the jobs done with them."""

import gc
import json
import os
import platform
import random
import time
import zlib

import numpy as np

from .. import tensors
from ..dataset import shards
from . import compiler, processors
from . import task as tasks
from .memory import peak_memory, reset_peak_memory
from .slots import Slots

RETRY_SECONDS = 2
# What may change from one call to the next; whatever else does begins anew, see `_begin`.
_PASSING = ("seed", "round", "task_hash", "fingerprint")


class Refused(ValueError):
    """A request that cannot be served; the message is a sentence that says why."""


class Worker:
    """The trainer's state and its jobs. All methods but `health` run on the jobs thread.

    `config` is the content of trainer.json: name, task (path), data (folder), whether that is a shard, made by a
    deployment, threads (0: as many as there are processors, or 1 where trainers take turns), slots (see Slots), and the
    options that `load_data` receives.
    """

    def __init__(self, config):
        self.config = config
        self.name = config["name"]
        self.ready = False
        self.problem = None
        self._begun = self._tried = 0.0  # the last warm-up: its begin on the monotonic clock, its end
        task_hash = tasks.task_hash(config["task"]) if os.path.isfile(config["task"]) else None
        self.facts = {"task_hash": task_hash, "fingerprint": None}
        self.train_data = self.heldout_data = None
        shared = bool(config.get("slots"))
        self.threads = int(config.get("threads", 0)) or (1 if shared else processors.count())
        self.slots = Slots(config.get("slots"), self.threads)
        self._torch = self._task = self._device = self._model = None
        self._served = None  # the configuration of the calls since the last warm-up
        self._interrupted = False

    def try_again(self):
        """Return whether it is time to warm up anew: what was wrong may have been put right since."""
        if self._interrupted:
            self._interrupted = False
            return True
        if not self.problem or time.time() < self._tried + RETRY_SECONDS:
            return False
        self.problem = None
        return True

    def warm_up(self):
        """Import torch, and the task and its data anew. On failure `problem` says why, and the trainer stays up."""
        self._begun = time.monotonic()
        self._tried = float("inf")  # until it has been
        self.ready = False
        self._task = self._model = self._served = self.train_data = self.heldout_data = None
        gc.collect()  # no room for the data twice; a module is a cycle
        try:
            import torch

            self._torch = torch
            compiler.leave_out()
            self._set_torch()
            self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._seed({})  # whatever a task draws to split or shuffle its data, it draws again
            self._task = tasks.load(self.config["task"])
            if self.config.get("shard"):  # a user's own data may be of any size, and nothing is compared with it
                self.facts["fingerprint"] = shards.fingerprint(self.config["data"])
            if self.config["data"]:  # a server may have no test set
                self.train_data, self.heldout_data = self._load_data()
            classes = getattr(self.train_data, "classes", None)
            self.facts.update(torch=torch.__version__, device=str(self._device), classes=classes)
            self.ready = True
        except ImportError as error:
            self.problem = "torch cannot be imported: %s" % error if self._torch is None else str(error)
        except (tasks.TaskError, OSError, ValueError) as error:
            self.problem = str(error)
        except (Exception, SystemExit) as error:
            self.problem = "load_data of the task failed: %s: %s" % (type(error).__name__, error)
        except BaseException:  # cancelled
            self._interrupted = True
            raise
        self._tried = time.time()

    def _set_torch(self):
        """Set what a task may have set for all of torch."""
        torch = self._torch
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        if hasattr(torch, "use_deterministic_algorithms"):  # since torch 1.8
            torch.use_deterministic_algorithms(False)

    def health(self, busy):
        """Return what the trainer is and has, as a dict for JSON."""
        return dict(
            self.facts, name=self.name, ready=self.ready, problem=self.problem, busy=busy, pid=os.getpid(),
            tried=self._begun, threads=self.threads,
            python=platform.python_version(), numpy=np.__version__, peak_memory_bytes=peak_memory(),
            examples=_length(self.train_data), heldout_examples=_length(self.heldout_data),
        )  # fmt: skip

    def initial(self, body, config):
        """Return a new model's tensors, made from `config["seed"]`; the metrics name those that aren't learnt."""
        self._begin(config)
        self._seed(config)
        self._model = None
        model = self._prepare_model(config)
        learnt = {name for name, _ in model.named_parameters()}
        state = self._state(model)
        return tensors.pack(state), {"buffers": json.dumps(sorted(set(state) - learnt))}

    def train(self, body, config):
        """Train on the device's training data from the tensors in `body`; return the trained tensors and metrics."""
        self._begin(config)
        if not _length(self.train_data):
            raise Refused("%s has no training examples in %s" % (self.name, self.config["data"]))
        reset_peak_memory()
        model, seconds_load = self._load(body, config)
        started = time.time()
        metrics = self._task.train(model, self.train_data, config)
        seconds_train = time.time() - started
        state = tensors.pack(self._state(model))
        return state, dict(
            _numbers("train", metrics), examples=len(self.train_data), seconds_load=seconds_load,
            seconds_train=seconds_train, peak_memory_bytes=peak_memory(),
        )  # fmt: skip

    def evaluate(self, body, config):
        """Evaluate the tensors in `body` on the held-out data; return no tensors, and metrics."""
        self._begin(config)
        if not _length(self.heldout_data):
            raise Refused("%s has no held-out examples in %s" % (self.name, self.config["data"]))
        model, seconds_load = self._load(body, config)
        started = time.time()
        metrics = self._task.evaluate(model, self.heldout_data, config)
        return b"", dict(
            _numbers("evaluate", metrics), examples=len(self.heldout_data), seconds_load=seconds_load,
            seconds_evaluate=time.time() - started,
        )  # fmt: skip

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
        """Give another experiment, or configuration, a module as if freshly imported, with data and model of its own.

        For a module may hold what belongs to its last model, such as an optimiser.
        """
        wanted = {key: value for key, value in config.items() if key not in _PASSING}
        if not self.ready or self._served not in (None, wanted):
            if os.path.isfile(self.config["task"]) and tasks.task_hash(self.config["task"]) != self.facts["task_hash"]:
                raise Refused("the code of %s has changed since its trainer started: run deploy.yml" % self.name)
            self.warm_up()
            self.check(config)
        self._served = wanted

    def _load_data(self):
        data = self._task.load_data(self.config["data"], self.config.get("options", {}))
        pair = isinstance(data, (tuple, list)) and len(data) == 2
        if not pair or not all(part is None or hasattr(part, "__len__") for part in data):
            raise ValueError("load_data of the task must return two data sets (to train on, held out), "
                             "each with a length, or None")  # fmt: skip
        return data

    def _load(self, body, config):
        started = time.time()
        model = self._prepare_model(config)
        self._load_state(model, tensors.unpack(body))
        self._seed(config)  # last: a model that had to be built drew random numbers
        return model, time.time() - started

    def _prepare_model(self, config):
        if self._model is None:
            self._model = self._task.build_model(config).to(self._device)
        return self._model

    def _seed(self, config):
        """Make everything random follow from the experiment's seed, the round and the device's name."""
        text = "%s/%s/%s" % (config.get("seed", 0), config.get("round", 0), self.name)
        seed = zlib.crc32(text.encode("utf-8"))
        random.seed(seed)
        np.random.seed(seed)
        self._torch.manual_seed(seed)

    def _state(self, model):
        return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}

    def _load_state(self, model, arrays):
        state = model.state_dict()
        if set(state) != set(arrays):
            differing = sorted(set(state) ^ set(arrays))
            raise Refused("the tensors sent are not those of this task's model; they differ in %s" % differing[:5])
        torch = self._torch
        with torch.no_grad():
            for name, tensor in state.items():
                array = arrays[name]
                if tuple(tensor.shape) != array.shape:
                    raise Refused("tensor %s has shape %s, but this task's model wants %s"
                                  % (name, array.shape, tuple(tensor.shape)))  # fmt: skip
                if not tensor.is_floating_point() and array.dtype.kind == "f":
                    array = np.rint(array)  # an average of counters
                tensor.copy_(torch.from_numpy(np.array(array)))


def _length(data):
    return 0 if data is None else len(data)


def _numbers(function, metrics):
    """Check what a task's function returned: a dict of numbers with `loss` and `accuracy`."""
    if not isinstance(metrics, dict) or not {"loss", "accuracy"} <= set(metrics):
        raise Refused("%s of the task must return a dict with loss and accuracy" % function)
    return {name: float(value) for name, value in metrics.items()}
