"""A package that no index has, for what a task may require."""

import base64
import hashlib
import zipfile
from pathlib import Path


def wheel(folder: Path, version: str) -> None:
    """Write a wheel of flowerbed-example, whose WIDTH is the first number of its version."""
    name = f"flowerbed_example-{version}"
    files = {
        "flowerbed_example.py": f"WIDTH = {version.split('.')[0]}\n",
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: flowerbed-example\nVersion: {version}\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in files.items()}
    record = [f"{path},sha256={sums[path].decode().rstrip('=')},{len(text)}" for path, text in files.items()]
    files[f"{name}.dist-info/RECORD"] = "\n".join([*record, f"{name}.dist-info/RECORD,,"]) + "\n"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
