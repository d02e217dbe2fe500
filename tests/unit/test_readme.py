"""What the README says is so: CI runs its commands, and its variables, sentences, paths and links exist."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"(?s)```console\n(.*?)```", README) for line in block.splitlines()]
INLINE = re.findall(r"`([^`\n]+)`", README)


def table(header: str) -> list[list[str]]:
    """Return the rows of the table whose header row begins with `header`."""
    rows = README.split(f"| {header} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def code(cell: str) -> str:
    assert cell.startswith("`") and cell.endswith("`"), cell
    return cell[1:-1]


def sources(*patterns: str) -> str:
    """Return all the text of our own files, on one line."""
    paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return " ".join(" ".join(path.read_text().split()) for path in paths)


def calls(text: str) -> list[tuple[str, str]]:
    """Return the calls in Python source of a function or method whose first argument is text: both names."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and node.args]
    named = [(getattr(node.func, "attr", getattr(node.func, "id", "")), node.args[0]) for node in nodes]
    return [(name, first.value) for name, first in named if isinstance(first, ast.Constant)]


def in_ci(command: str) -> bool:
    """Whether .ci/run or an end-to-end test runs a command."""
    program, *arguments = command.split()
    if program == "make":
        steps = re.sub(r"(?m)^\s*#.*", "", (ROOT / ".ci/run").read_text())
        return re.search(rf"\b(?:step \w+|make) {arguments[0]}\b", steps) is not None
    tests = [path.read_text() for folder in ("e2e", "rehearsal") for path in (ROOT / "tests" / folder).glob("*.py")]
    if arguments[0] == "-i":
        del arguments[:2]
    if program == "ansible-playbook":
        extra = re.findall(r"-e (\w+)=", command)
        playbook = arguments[0].removesuffix(".yml")
        called = any((name, playbook) in calls(test) for test in tests for name in ("play", "begin", "fail"))
        return called and all(f"{name}=" in " ".join(tests) for name in extra)
    return False


LAB = [command for command in COMMANDS if "-i inventory/lab" in command]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in LAB])
def test_ci_runs_the_command(command):
    assert in_ci(command)


def test_a_call_in_a_comment_or_in_text_is_none():
    text = (
        '# play("deploy")\n"""play("deploy")"""\nx = "play(\\"deploy\\")"\nwork.play("stop", quiet=True)\nplay(name)\n'
    )
    assert calls(text) == [("play", "stop")]


def test_commands_are_found():
    assert {"make demo", "make test", "ansible-playbook deploy.yml"} <= set(COMMANDS) and len(LAB) >= 3
    assert not in_ci("make clean") and not in_ci("ansible-playbook other.yml") and not in_ci("rm -r runs")


@pytest.mark.parametrize("command", LAB)
def test_the_labs_commands_can_be_called(command):
    """No boards in CI: playbooks are refused for example addresses, and for nothing else."""
    program, *arguments = command.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments], cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    if program == "ansible-playbook":
        assert done.returncode != 0 and "because of 2 problems:" in done.stdout
        assert done.stdout.count("is still an example") == 2
    else:
        assert done.returncode == 0 and "rpi-3" in done.stdout and "@jetson_4gb" in done.stdout


def test_every_make_target_exists():
    targets = {command.split()[1] for command in INLINE + COMMANDS if command.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "stop", "help"} <= targets
    assert all(re.search(rf"(?m)^{target}:", makefile) for target in targets)


@pytest.mark.parametrize(
    ("program", "wrong", "sentence"),
    [("round.py", "--data /nowhere", "--data /nowhere is not there"), ("deploy.py", "--boards 1", "are at least 3")],
)
def test_the_benchmarks_can_be_called(program, wrong, sentence):
    [command] = [command for command in INLINE if command.startswith(f"python benchmarks/{program} ")]
    option, *_ = wrong.split()
    assert option in command
    done = subprocess.run(
        [sys.executable, f"benchmarks/{program}", *wrong.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert sentence in done.stderr


@pytest.mark.parametrize(("name", "default"), [(code(row[0]), code(row[1])) for row in table("variable")])
def test_a_variable_has_this_default(name, default):
    role = {"fl": "fl", "dataset": "dataset"}[name.partition("_")[0]]
    specs = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    assert name in specs["argument_specs"]["variables"]["options"]
    value = yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())[name]
    if isinstance(value, str):
        value = value.replace("{{ fl_checkout }}/", "")
    assert value == yaml.safe_load(default)


def test_every_other_variable_exists():
    options = sources("roles/*/meta/argument_specs.yml")
    names = set(re.findall(r"\b(?:fl|dataset)_[a-z_]+\b(?!/)", README)) - {"fl_app"}
    assert len(names) > 15
    assert [name for name in sorted(names) if f"{name}:" not in options] == []


@pytest.mark.parametrize("sentence", [code(row[0]) for row in table("it says")])
def test_something_says_this(sentence):
    said = sources("fl_app/**/*.py", "playbooks/**/*.py", "roles/**/*.py", "roles/**/*.yml")
    parts = [part.strip() for part in sentence.split("…")]
    assert all(part in said for part in parts), parts


def test_links_and_paths_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    ours = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir())
    made = (".flowerbed/", "runs/", "inventory/rehearsal")
    paths = [path for path in INLINE if path.startswith(ours) and not path.startswith(made) and " " not in path]
    assert {"CONTRIBUTING.md", "docs/architecture.svg"} <= set(links) and len(paths) > 4
    assert [path for path in links + paths if not list(ROOT.glob(path))] == []
