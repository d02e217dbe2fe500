"""What the server goes by to know devices: its identity's files, taken up anew whenever a deployment changes them."""

import logging
import ssl
from pathlib import Path

from .. import identity

log = logging.getLogger("flowerbed.server")


class Registry:
    """The server's identity in `folder`, and the devices that are recorded there. Raises IdentityError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, int]] = {}
        self._said = ""
        self.context: ssl.SSLContext
        self._names: dict[str, str] = {}
        self._read(self._look())

    def name(self, fingerprint: str) -> str | None:
        """Return the name of the device whose recorded certificate has this fingerprint."""
        return self._names.get(fingerprint)

    def knows(self, name: str) -> bool:
        """Return whether a certificate is recorded for a device of this name."""
        return name in self._names.values()

    def refresh(self) -> None:
        """Read again what has changed. What can't be used is said once, and not taken."""
        seen = self._look()
        if seen == self._seen:
            return
        try:
            self._read(seen)
        except identity.IdentityError as error:  # perhaps only half of it is written yet
            if str(error) != self._said:
                self._said = str(error)
                log.info("what was there before is used on: %s", error)
            return
        self._said = ""

    def _read(self, seen: dict[str, tuple[int, int]]) -> None:
        changed = {name for name in seen if seen[name] != self._seen.get(name)}
        names = identity.devices(self._folder) if identity.DEVICES in changed else self._names
        if changed - {identity.DEVICES}:
            self.context = identity.context(self._folder, ssl.Purpose.CLIENT_AUTH)
        self._names, self._seen = names, seen

    def _look(self) -> dict[str, tuple[int, int]]:
        """Return when each file was changed, and which file it is."""
        seen = {}
        for name in (identity.KEY, identity.CERTIFICATE, identity.AUTHORITY, identity.DEVICES):
            try:
                stat = (self._folder / name).stat()
                seen[name] = (stat.st_mtime_ns, stat.st_ino)
            except OSError:
                seen[name] = (0, 0)
        return seen
