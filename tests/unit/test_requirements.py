"""The requirements lists: each has what its code imports, and no more."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
APP = CHECKOUT / "fl_app"
DEVICE, SERVER, DEVELOPER = "requirements-device.txt", "requirements.txt", "requirements-dev.txt"

# What is run or loaded by its name, not imported
PROGRAMS = {
    *("supervisor", "ansible"),  # the latter for its collections
    *("ansible-lint", "molecule", "pytest-testinfra", "pytest-xdist", "ruff", "yamllint"),
}
# What a listed package is made of, so that no line of its own may say another version
BROUGHT = {
    **dict.fromkeys(("click", "cryptography", "grpcio", "protobuf", "sqlalchemy", "typer", "uvicorn"), "flwr"),
    "datasets": "flwr-datasets",
    "pyyaml": "ansible-core",
}
# What a device's data may be in, where its owner has installed it
OPTIONAL = {"pyarrow"}


def listed(name: str) -> list[str]:
    """Return the packages that a list names, without those of a list that it includes."""
    lines = (CHECKOUT / name).read_text().splitlines()
    return sorted({re.match(r"[\w-]+", line)[0].lower() for line in lines if not line.startswith(("#", "-r"))})


def python_files(*patterns: str) -> set[Path]:
    """Return the Python files of the checkout that are in folders of these patterns."""
    return {path for pattern in patterns for path in CHECKOUT.glob(f"{pattern}/**/*.py")}


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of each module that a file imports anywhere in it, and of each name it takes from one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (not node.level or path.is_relative_to(APP)):
            package = path.relative_to(APP).with_suffix("").parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_files(name: str) -> list[Path]:
    """Return the files of Flowerbed that run when the module `name` is imported, its packages' own among them."""
    parts = name.split(".")
    candidates = [APP.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    return [path for path in [*candidates, APP.joinpath(*parts).with_suffix(".py")] if path.is_file()]


def reached(starts: Iterable[Path]) -> set[Path]:
    """Return these files, and all of Flowerbed that they import."""
    files, waiting = set(), set(starts)
    while waiting:
        path = waiting.pop()
        files.add(path)
        waiting |= {found for name in imports(path) for found in module_files(name)} - files
    return files


def device_files() -> set[Path]:
    """Return what runs on a device: the task, the modules that the device's roles start, and all that these import."""
    files = [path for role in ("client", "trainer") for path in (CHECKOUT / "roles" / role).rglob("*.yml")]
    text = "".join(path.read_text() for path in files)
    started = set(re.findall(r"-m\W+(flowerbed[\w.]*)", text))
    assert {"flowerbed.client", "flowerbed.trainer"} <= started
    started.add(re.search(r'(?m)^clientapp = "([\w.]+):', (APP / "pyproject.toml").read_text())[1])
    programs = [APP.joinpath(*name.split("."), "__main__.py") for name in started]
    files = {path for name in started for path in module_files(name)} | set(filter(Path.is_file, programs))
    return reached(files | {APP / "task.py", APP / "flowerbed/link/superlink/sitecustomize.py"})


def packages(files: set[Path]) -> set[str]:
    """Return the packages that files import, by the names under which they are installed."""
    own = {part.removesuffix(".py") for path in every_file() for part in path.relative_to(CHECKOUT).parts}
    installed = packages_distributions()
    modules = {name.partition(".")[0] for path in files for name in imports(path)}
    return {installed.get(name, [name])[0].lower() for name in modules - own - sys.stdlib_module_names}


def every_file() -> set[Path]:
    """Return all Python files of the checkout."""
    return python_files("fl_app", "roles", "playbooks", "plugins", "tests", "benchmarks")


def developer_files() -> set[Path]:
    """Return what only a developer runs."""
    return python_files("tests", "benchmarks", "roles/*/molecule")


CODE = {DEVICE: device_files, SERVER: lambda: every_file() - developer_files(), DEVELOPER: developer_files}


@pytest.mark.parametrize("name", CODE)
def test_a_list_has_what_its_code_imports_and_no_more(name):
    used = packages(CODE[name]()) - OPTIONAL
    given = {package for each in list(CODE)[: list(CODE).index(name) + 1] for package in listed(each)}
    assert {package for package in used if package not in given and BROUGHT.get(package) not in given} == set()
    assert set(listed(name)) - used - PROGRAMS == set()


def test_a_package_stands_in_one_list_and_is_pinned():
    names = [package for name in CODE for package in listed(name)]
    assert sorted(names) == sorted(set(names))
    pinned = re.findall(r"(?m)^([\w-]+)==", (CHECKOUT / "requirements-lock.txt").read_text())
    assert set(names) <= set(pinned)
