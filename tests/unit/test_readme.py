"""What README and docs say is so: CI runs the commands, and the variables, sentences, paths and links exist."""

import ast
import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = sorted(ROOT.glob("examples/*/README.md"))  # tests/e2e/test_examples.py calls their commands
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *EXAMPLES]
CONSOLE = re.compile(r"(?s)```console\n(.*?)```")
TEXT = "\n\n".join(page.read_text() for page in PAGES)
BLOCKS = [block for page in PAGES if page not in EXAMPLES for block in CONSOLE.findall(page.read_text())]
COMMANDS = sorted({line for block in BLOCKS for line in block.splitlines()})
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"(?s)```.*?```", "", TEXT))


def table(header: str) -> list[list[str]]:
    """Return the rows of the table whose header row begins with `header`."""
    rows = TEXT.split(f"| {header} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
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
        return re.search(rf"(?m)\b(?:step \w+|make) {re.escape(' '.join(arguments))}\b", steps) is not None
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
WITHOUT_MAKE = [command for command in COMMANDS if command.startswith("PYTHONPATH=")]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in LAB + WITHOUT_MAKE])
def test_ci_runs_the_command(command):
    assert in_ci(command)


def test_a_call_in_a_comment_or_in_text_is_none():
    text = (
        '# play("deploy")\n"""play("deploy")"""\nx = "play(\\"deploy\\")"\nwork.play("stop", quiet=True)\nplay(name)\n'
    )
    assert calls(text) == [("play", "stop")]


def test_commands_are_found():
    assert {"make demo", "make test", "ansible-playbook deploy.yml"} <= set(COMMANDS) and len(LAB) >= 3
    assert (
        not in_ci("make clean")
        and not in_ci("make try TASK=other.py")
        and not in_ci("ansible-playbook other.yml")
        and not in_ci("rm -r runs")
    )


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


def test_a_task_can_be_tried_without_make():
    [command] = WITHOUT_MAKE
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("A fleet takes docs/my_task.py."), done.stderr


def test_every_make_target_exists():
    targets = {command.split()[1] for command in INLINE + COMMANDS if command.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "stop", "help"} <= targets
    assert all(re.search(rf"(?m)^{target}:", makefile) for target in targets)


@pytest.mark.parametrize(
    ("program", "wrong", "sentence"),
    [
        ("round.py", "--data /nowhere", "--data /nowhere is not there"),
        ("deploy.py", "--boards 1", "are at least 3"),
        ("faults.py", "--only (", "--only ( is no regular expression"),
    ],  # fmt: skip
)
def test_the_benchmarks_can_be_called(program, wrong, sentence):
    [command] = [command for command in INLINE if command.startswith(f"python benchmarks/{program} ")]
    option, *_ = wrong.split()
    assert option in command
    done = subprocess.run(
        [sys.executable, f"benchmarks/{program}", *wrong.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert sentence in done.stderr


@pytest.mark.parametrize(("name", "default"), [(code(row[0]), code(row[1])) for row in table("variable | default")])
def test_a_variable_has_this_default(name, default):
    defaults = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/defaults/main.yml")]
    [value] = [found[name] for found in defaults if name in found]
    if isinstance(value, str):
        value = value.replace("{{ fl_checkout }}/", "")
    assert value == yaml.safe_load(default)


def test_every_other_variable_exists():
    options = sources("roles/*/meta/argument_specs.yml")
    names = set(re.findall(r"\b(?:fl|dataset)_[a-z_]+\b(?!/)", TEXT)) - {"fl_app"}
    assert len(names) > 15
    assert [name for name in sorted(names) if f"{name}:" not in options] == []


@pytest.mark.parametrize("sentence", [code(row[0]) for row in table("it says")])
def test_something_says_this(sentence):
    said = sources("fl_app/**/*.py", "plugins/**/*.py", "roles/**/*.py", "roles/**/*.yml")
    parts = [part.strip() for part in sentence.split("…")]
    assert all(part in said for part in parts), parts


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if not path.startswith("https://"):
            target = page.parent / path if path else page
            assert target.is_file(), link
            headings = re.findall(r"(?m)^#+ (.*)", target.read_text()) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings]


def test_paths_exist():
    ours = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir())
    made = (".flowerbed/", "runs/", "inventory/rehearsal")
    paths = [path for path in INLINE if path.startswith(ours) and not path.startswith(made) and " " not in path]
    assert len(paths) > 4
    assert [path for path in paths if not list(ROOT.glob(path))] == []


def test_every_page_is_linked_from_the_readme_and_its_contents_are_whole():
    assert len(README.splitlines()) < 250
    assert [page for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in README] == []
    for page in [*PAGES, ROOT / "SECURITY.md"]:
        headings = re.findall(r"(?m)^## (.*)", page.read_text())
        contents = re.findall(r"(?m)^- \[(.*)\]\(#", page.read_text())
        assert not contents or contents == headings, page


def test_the_variables_are_those_of_the_roles():
    made = subprocess.run(
        [sys.executable, "-c", "import make_variables; print(make_variables.text(), end='')"],
        cwd=ROOT / "docs", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert (ROOT / "docs/variables.md").read_text() == made, "python docs/make_variables.py"
    options = re.findall(r"(?m)^\| `(\w+)`", made)
    assert len(options) > 80 and {"fl_weight", "dataset_name", "jetson_power_mode"} <= set(options)


def test_the_task_in_25_lines_is_the_one_that_is_tried():
    task = (ROOT / "docs/my_task.py").read_text()
    assert f"```python\n{task}```" in README
    assert sum(bool(line.strip()) for line in task.splitlines()) <= 25


def test_the_inventory_of_three_boards_is_one(tmp_path):
    [boards] = re.findall(r"(?s)```yaml\n(all:.*?)```", README)
    shutil.copytree(ROOT / "inventory/lab", tmp_path / "lab")
    (tmp_path / "lab/hosts.yml").write_text(boards)
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "lab", "playbooks/preflight.yml"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert "because of 1 problem" in done.stdout and "fl_server_host" in done.stdout


def test_the_picture_is_what_a_terminal_shows(tmp_path):
    made, printed = tmp_path / "picture.svg", tmp_path / "printed"
    printed.write_text("PLAY [all]\n   round  accuracy\n\033[0;32m  1 of 3  <9 %>\033[0m\n\nmetrics: x\nPLAY RECAP\n")
    subprocess.run([sys.executable, "docs/make_picture.py", made, "cat", printed], cwd=ROOT, check=True)
    assert "PLAY" not in shown(made) and "1 of 3  <9 %>" in shown(made) and "metrics: x" in shown(made)
    ours = shown(ROOT / "docs/demo.svg")
    assert "rounds 1 to 3 are done" in ours and "10/10" in ours and "jetson-4gb-5" in ours
    spec = importlib.util.spec_from_file_location("flowerbed_callback", ROOT / "plugins/callback/flowerbed.py")
    callback = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(callback)
    headings = [
        *callback.device_columns("accuracy", []),
        *(name for name, *_ in callback.round_columns("accuracy", [])),
    ]
    assert all(heading in ours for heading in headings)


def shown(path: Path) -> str:
    """Return the text in an SVG."""
    return html.unescape(re.sub("<[^>]*>", "", re.sub("(?s)<style>.*?</style>", "", path.read_text()))).replace(
        "\xa0", " "
    )
