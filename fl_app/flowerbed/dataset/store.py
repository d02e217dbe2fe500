"""The folder of shards: written only where it differs, and whole or not at all."""

import hashlib
import io
import json
import os
import shutil
from dataclasses import asdict, replace

import numpy as np

from flowerbed.dataset import DatasetError, files
from flowerbed.dataset.build import Shards, loader
from flowerbed.dataset.config import Config
from flowerbed.dataset.shards import joint_fingerprint
from flowerbed.dataset.split import Split, sharing

MANIFEST, SHARES, STATE, STAGING = "manifest.json", "shares.json", ".state.json", ".staging"
FORMAT = 3  # raise it when the same input gives other shards, or another manifest


class Store:
    """The shards of one configuration in `config.output`."""

    def __init__(self, config: Config) -> None:
        self.output = config.output
        self.split = Split.load(self._content(SHARES))
        self.inputs = _inputs(config, sharing(config, self.split))
        self.state = self._read_json(STATE) or {"inputs": None, "files": {}}

    def manifest(self) -> dict | None:
        """Return the manifest of shards that were made from the same input and are all still there, else None."""
        current = self.state["inputs"] == self.inputs
        if current and all(_stat(self._path(name)) == stat for name, stat in self.state["files"].items()):
            return self._read_json(MANIFEST)
        return None

    def write(self, shards: Shards, manifest: dict, split: Split, check: bool = False) -> bool:
        """Bring the folder up to date, unless `check`; return whether it differs. Raises DatasetError.

        Adds each host's fingerprint, which its trainer finds in its own part, to the manifest.
        """
        try:
            return self._write(shards, manifest, split, check)
        except OSError as error:
            problem = f"cannot write the shards to {self.output} ({error.strerror})"
            raise DatasetError(f"{problem}: make room or give access; the earlier shards are kept") from error
        finally:
            shutil.rmtree(self._path(STAGING), ignore_errors=True)

    def _write(self, shards: Shards, manifest: dict, split: Split, check: bool) -> bool:
        shutil.rmtree(self._path(STAGING), ignore_errors=True)
        changed = []

        def place(name: str, content: bytes) -> None:
            if content != self._content(name):
                changed.append(name)
                if not check:
                    _save(self._path(STAGING, name), content)

        sums: dict[str, dict[str, str]] = {}
        for name, arrays in shards.items():
            content = _npz(*arrays)
            host, file = name.split("/")
            sums.setdefault(host, {})[file] = hashlib.sha256(content).hexdigest()
            place(name, content)
        manifest["fingerprints"] = {host: joint_fingerprint(files) for host, files in sums.items()}
        place(MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
        place(SHARES, split.dump())
        names = {*shards, MANIFEST, SHARES}
        stale = [name for name in self.state["files"] if name not in names and os.path.exists(self._path(name))]
        if not check:
            self._save_state(None, names.union(stale))  # should this be killed half-way, the next call repairs it
            for name in changed:
                os.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
                os.replace(self._path(STAGING, name), self._path(name))
            for name in stale:
                self._remove(name)
            self._save_state(self.inputs, names)
        return bool(changed or stale)

    def _save_state(self, inputs: str | None, names: set[str]) -> None:
        state = {"inputs": inputs, "files": {name: _stat(self._path(name)) for name in sorted(names)}}
        _save(self._path(STAGING, STATE), json.dumps(state).encode())
        os.replace(self._path(STAGING, STATE), self._path(STATE))

    def _remove(self, name: str) -> None:
        os.remove(self._path(name))
        folder = os.path.dirname(self._path(name))
        if not os.listdir(folder):
            os.rmdir(folder)

    def _path(self, *names: str) -> str:
        return os.path.join(self.output, *names)

    def _content(self, name: str) -> bytes | None:
        try:
            with open(self._path(name), "rb") as file:
                return file.read()
        except OSError:
            return None

    def _read_json(self, name: str) -> dict | None:
        try:
            return json.loads(self._content(name) or b"null")
        except ValueError:
            return None  # damaged: it is made anew


def _inputs(config: Config, devices: list[str]) -> str:
    """Return a hash of all that the shards depend on: the configuration, and each source file's size and time.

    `devices` are those that are to have a share.
    """
    sizes = {device: config.sizes.get(device) for device in devices}
    config = replace(config, devices=devices, only=None, sizes=sizes)
    sources = [(path, _stat(files.encoded(path))) for path in loader(config).sources(config)]
    return hashlib.sha256(json.dumps([FORMAT, asdict(config), sources]).encode()).hexdigest()


def _stat(path: str | bytes) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _npz(x: np.ndarray, y: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=y)  # numpy dates the entries 1980, so the same arrays are the same bytes
    return buffer.getvalue()


def _save(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
