"""The worked examples: each page's commands, one after another, and a model that has learnt."""

import os
import re
import shlex

import pytest
from checkout import BIN, ROOT, Checkout, Played, Playing

from flowerbed.trainer_socket import TrainerSocket

pytestmark = pytest.mark.e2e
# Whose metric it is, and what it has to be after the last round, given that of a model that is not trained
LEARNT = {
    "anomaly": ("server", "auc", lambda score, untrained: score > 0.85 > 0.65 > untrained),
    "language": ("rpi-1", "bits_per_byte", lambda score, untrained: score < 2 < untrained / 2),
    "sensors": ("server", "mae", lambda score, untrained: score < 3 < untrained / 5),
}


def call(checkout: Checkout, line: str) -> Played:
    """Call a command of a page, in a shell; make has the packages of this environment, not what make test was given."""
    program, rest = line.split(" ", 1)
    given = "-u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u ARGS"
    line = f"env {given} make --old-file=.venv {rest}" if program == "make" else line
    path = shlex.quote(f"{BIN}{os.pathsep}{os.environ['PATH']}")
    played = Playing(["bash", "-c", f"PATH={path} {line}"], checkout.folder).end()
    assert played.status == 0, played.text
    return played


def test_every_example_is_tried():
    assert {path.parent.name for path in ROOT.glob("examples/*/README.md")} == LEARNT.keys()


@pytest.mark.parametrize("example", LEARNT)
def test_an_example_learns_by_the_commands_of_its_page(checkout, example):
    page = (ROOT / "examples" / example / "README.md").read_text()
    [block] = re.findall(r"(?s)```console\n(.*?)```", page)
    make_data, tried, deploy, run, stop = block.splitlines()
    call(checkout, make_data)
    assert f"A fleet takes examples/{example}/task" in call(checkout, tried).text
    call(checkout, deploy)
    host, metric, learnt = LEARNT[example]
    trainer = TrainerSocket(str(checkout.folder / ".flowerbed" / example / host / "trainer.sock"))
    model, _ = trainer.call("initial", b"", {})
    untrained = trainer.call("evaluate", model, {})[1]["metrics"][metric]
    call(checkout, run)
    assert checkout.events(example, "problem") == []
    if host == "server":
        scores = [event["metrics"][metric] for event in checkout.events(example, "round")]
    else:
        events = checkout.events(example, "device")
        scores = [event["heldout_metrics"][metric] for event in events if event["device"] == host]
    assert len(scores) == 3 and learnt(scores[-1], untrained), (scores, untrained)
    call(checkout, stop)
    assert not [command for command in checkout.processes().values() if "-m flowerbed." in command]
