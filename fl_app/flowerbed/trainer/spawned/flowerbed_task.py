"""The task, for a Python that starts anew and is handed something of the task's: spawned workers of a DataLoader."""

import os

from flowerbed.trainer import task

task.load(os.environ[task.VARIABLE])
