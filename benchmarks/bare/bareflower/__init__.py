"""The tutorial's task on bare Flower, done the way Flower's embedded example does it."""

import importlib.util
import json
from types import ModuleType
from typing import Any

from flwr.app import Context


def read_task(context: Context) -> tuple[ModuleType, dict[str, Any]]:
    """Import the task file that the run's configuration names; return it and its own configuration."""
    spec = importlib.util.spec_from_file_location("benchmark_task", str(context.run_config["task"]))
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    return task, json.loads(str(context.run_config["task-config"]))
