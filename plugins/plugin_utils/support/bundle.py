"""Write a support bundle: what was collected of all hosts, without secrets, in an archive that its user alone reads."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import time
from pathlib import Path

from .likely import Collected
from .secrets import Cleaner

ALL_BYTES = 20_000_000  # of the texts of all hosts
KEPT = 5  # bundles in a folder
NAME = re.compile(r"support-[\d-]+\.tar\.gz")


def write(folder: Path, hosts: dict[str, Collected], summary: str, cleaner: Cleaner, now: float) -> Path:
    """Return the archive, `folder`/support-TIME.tar.gz, of which the latest are kept. Raises OSError."""
    name = time.strftime("support-%Y-%m-%d-%H%M%S", time.localtime(now))
    folder.mkdir(parents=True, exist_ok=True)
    path, partial = folder / f"{name}.tar.gz", folder / f".{name}.partial"
    left = ALL_BYTES
    try:
        with (
            open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive,
        ):
            texts = {"summary.txt": summary}
            for host, collected in hosts.items():
                texts |= {f"{_safe(host)}/{_safe(part)}": text for part, text in collected.files.items()}
            for part, text in texts.items():
                data = cleaner.clean(text).encode("utf-8", "replace")
                data = data[len(data) - min(len(data), left) :]
                left -= len(data)
                entry = tarfile.TarInfo(f"{name}/{part}")
                entry.size, entry.mode, entry.mtime = len(data), 0o600, int(now)
                archive.addfile(entry, io.BytesIO(data))
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    for older in sorted(each for each in folder.iterdir() if NAME.fullmatch(each.name))[:-KEPT]:
        older.unlink(missing_ok=True)
    return path


def _safe(name: str) -> str:
    """Return a relative path of which no part leads out of the archive."""
    parts = [re.sub(r"[^\w.()+ -]", "_", part) for part in name.split("/")]
    return "/".join(part for part in parts if part.strip(". "))
