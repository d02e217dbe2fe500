"""How the rooms of fl_app lie: imports run downwards only, and what Flower does not promise is in one place."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "fl_app"
ROOT = Path(__file__).parents[2]

# From the bottom to the top; a module may import those of its own line and of the lines before it.
LAYERS = [
    ["words", "tensors", "memory", "metrics", "privacy", "parts", "unix_http", "flower_private"],
    ["trainer", "dataset"],
    ["trainer_socket", "server_socket"],
    ["link.content", "link.identity", "link.answers", "link.life"],
    ["rounds"],
    ["link.stream", "link.superlink"],
    ["server"],
    ["client", "submit", "status", "tryout"],
]
# A device's code knows nothing of the server's, nor the other way round.
DEVICE = ["client", "link.answers", "link.stream.device", "link.superlink.client_app", "link.superlink.key", "trainer"]
SERVER = [
    "server", "submit", "rounds", "link.stream.grid", "link.stream.connections", "link.stream.registry",
    "link.stream.submit", "link.superlink.server_app", "link.superlink.submit", "link.superlink.database",
    "link.superlink.guard", "link.superlink.nodes",
]  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((APP / "flowerbed").rglob("*.py")):
        name = ".".join(path.relative_to(APP / "flowerbed").with_suffix("").parts)
        if "spawned" not in name and name not in ("__init__", "link.__init__"):
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """Return which of our modules one imports, by name without the package's."""
    package = ["flowerbed", *name.split(".")]
    package = package if path.name == "__init__.py" else package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    ours = {full.removeprefix("flowerbed.") for full in found if full.startswith("flowerbed.")}
    known = modules()
    return {next(part for part in (full, full.rpartition(".")[0]) if part in known or not part) for full in ours} - {""}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def layer(name: str) -> int:
    [found] = [index for index, rooms in enumerate(LAYERS) if any(within(name, room) for room in rooms)]
    return found


@pytest.mark.parametrize("name", modules())
def test_imports_run_downwards_only(name):
    for other in imports(name, modules()[name]):
        assert layer(other) <= layer(name), f"{name} imports {other}, which lies above it"


def test_the_links_do_not_know_each_other():
    for one, other in (("stream", "superlink"), ("superlink", "stream")):
        for name, path in modules().items():
            if within(name, f"link.{one}"):
                assert not [found for found in imports(name, path) if within(found, f"link.{other}")], name


@pytest.mark.parametrize(("rooms", "others"), [(DEVICE, SERVER), (SERVER, DEVICE)])
def test_a_device_s_code_and_the_server_s_do_not_import_each_other(rooms, others):
    """Whatever a module imports, and that imports, and so on; but what is asked of a task's file is the trainer's."""
    known = modules()
    for name in [name for name in known if any(within(name, room) for room in rooms)]:
        seen, left = set(), [name]
        while left:
            for found in imports(left[0], known[left.pop(0)]) - seen:
                seen.add(found)
                left.append(found)
        both = {found for found in seen if any(within(found, other) for other in others)}
        assert not {found for found in both if found != "trainer.task" and found != "trainer"}, (name, both)


def test_a_device_s_client_loads_nothing_of_the_server_s():
    code = "import sys, flowerbed.client; print(*[name for name in sys.modules if name.startswith('flowerbed')])"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(APP)}, capture_output=True, text=True)
    assert done.returncode == 0 and "flowerbed.link.stream.device" in done.stdout, done.stderr
    assert not re.search(r"flowerbed\.(rounds|server|dataset|submit)|\.grid|\.connections", done.stdout), done.stdout


# What Flower exports for others to use
PROMISED = r"flwr\.(app|serverapp|clientapp|serverapp\.strategy)"


def test_what_flower_does_not_promise_is_used_in_one_module():
    for name, path in modules().items():
        names = {
            node.module if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        private = {found for found in names if found and re.match(r"flwr\b", found)}
        private = {found for found in private if not re.fullmatch(PROMISED, found)}
        assert not private or name == "flower_private", f"{name} uses {private}"
