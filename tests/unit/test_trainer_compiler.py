"""A trainer has torch without its compiler, which a task may use all the same."""

import subprocess
import sys

import fleet

PROGRAM = """
import sys
import torch
from flowerbed.trainer import compiler

compiler.stand_in()

def train(prepare):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    call = prepare(model)
    for _ in range(3):
        optimizer.zero_grad()
        call(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    return [weights.tolist() for weights in model.parameters()]

plain = train(lambda model: model)
assert "torch._dynamo.eval_frame" not in sys.modules
assert train(lambda model: torch.compile(model, backend="eager")) == plain
assert "torch._dynamo.eval_frame" in sys.modules
from torch._dynamo import config
assert torch._dynamo.config is config and torch._dynamo.__file__
"""


def test_an_optimizer_does_not_import_the_compiler_and_a_task_can():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=fleet.APP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
