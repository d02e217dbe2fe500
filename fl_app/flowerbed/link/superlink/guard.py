"""Flower's SuperLink and a guard at its door: python -m flowerbed.link.superlink.guard, flower-superlink's arguments.

A SuperLink has one port for all: for devices, which must have a registered key, and for `flwr` commands and its own
programs, which need nothing. So whoever reaches the port could register a key, or start a run, which is code on the
server and on every device. The guard lets all but a device's calls in from this machine only. It says in the log who
was refused and why, which Flower does not, and takes up a new certificate without a restart.
"""

import asyncio
import datetime
import ipaddress
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ... import flower_private
from ...words import clean, duration
from .. import identity

log = logging.getLogger("flowerbed.superlink")

OF_DEVICES = "/v1/fleet/"
COMING = ("activate-node", "register-node")  # what a device asks first
LOOK_SECONDS = 1.0  # between two looks at the certificate
MOST_LOGGED = 100  # sentences about the refused, each logged once
EARLY, LATE = 5, 305  # seconds that Flower lets a signature's time be after the server's, and before

Scope, Receive, Send = dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]


def is_of_this_machine(address: str) -> bool:
    """Return whether an address is one of this machine's: another one can't be bound, unless Linux is told to allow it.

    Where Docker masquerades, a connection from this machine to itself has another of its addresses at its other end;
    never a loopback one.
    """
    version, family = ("ipv6", socket.AF_INET6) if ":" in address else ("ipv4", socket.AF_INET)
    try:
        allowed = Path(f"/proc/sys/net/{version}/ip_nonlocal_bind").read_text().strip() != "0"
        if allowed or ipaddress.ip_address(address).is_loopback:
            return False
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True


class Guard:
    """What stands before `app`, an ASGI application, whose nodes are in `database`."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], database: Path) -> None:
        self._app = app
        self._database = database
        self._logged: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on, or refuse it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        peer, path = scope["client"][0], scope["path"]
        if scope["type"] == "http" and path.startswith(OF_DEVICES):
            return await self._app(scope, receive, self._watched(scope, send))
        if peer == scope["server"][0] or is_of_this_machine(peer):
            return await self._app(scope, receive, send)
        self._say(peer, f"it asked for {clean(path, 80)}, which only this machine may")
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"only from the server's own machine\n"})
        return None

    def _watched(self, scope: Scope, send: Send) -> Send:
        async def watch(message: Any) -> None:
            if message["type"] == "http.response.start":
                status, call = message["status"], scope["path"].removeprefix(OF_DEVICES)
                if status == 401 or (status >= 400 and call in COMING):
                    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
                    self._say(scope["client"][0], await asyncio.to_thread(why, self._database, headers, call))
            await send(message)

        return watch

    def _say(self, peer: str, reason: str) -> None:
        sentence = f"{peer} was refused: {reason}"
        if sentence not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(sentence)
            log.warning(sentence)


def why(database: Path, headers: dict[str, str], call: str) -> str:
    """Return why the device that showed these headers was refused, as a sentence's end."""
    shown = flower_private.shown(headers)
    if shown is None:
        return "it showed no key"
    key, signed_at = shown
    node = next((node for node in flower_private.nodes(database) if node.key == key), None)
    if node is None:
        return "its key is no device's, or not yet: deploy.yml registers the keys of the inventory's devices"
    name = clean(node.name) or "a node without a name"
    if not node.registered:
        return f"its key was {name}'s, which was taken out of the inventory, was reset, or has another key now"
    late = (datetime.datetime.now(datetime.UTC) - signed_at).total_seconds()
    if not -EARLY < late < LATE:
        return f"the clock of {name} is {duration(abs(late))} {'behind' if late > 0 else 'ahead'}: set it right"
    if call in COMING:
        return f"{name} counts as connected, for up to a minute after it was killed, or another has a copy of its key"
    return f"it showed {name}'s key, but has not signed with it, or speaks for another device"


def take_back(database: Path, tls: Path) -> None:
    """Take back the keys of devices that are not on record any more, which nobody could tell a SuperLink at rest."""
    recorded = identity.devices(tls).values()
    gone = [node for node in flower_private.nodes(database) if node.registered and node.name not in recorded]
    flower_private.unregister(database, gone)


def renew(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Take up, for connections to come, what stands in these files whenever it changes. Never returns."""
    before = _times(certificate, key)
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            now = _times(certificate, key)
            if now != before:
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)  # do they fit?
                context.load_cert_chain(certificate, key)
                before = now
                log.info("the server has a new certificate")
        except OSError:  # they are being replaced
            continue


def _times(*files: str) -> list[int]:
    return [os.stat(file).st_mtime_ns for file in files]


def main() -> None:
    """Serve until a signal ends it."""
    handler = logging.StreamHandler()  # for what the guard says alone: Flower sees to its own
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    files = given["--ssl-certfile"], given["--ssl-keyfile"]
    database = Path(given["--database"])
    try:
        take_back(database, Path(files[0]).parent)
    except identity.IdentityError as error:
        sys.exit(f"{error}: run deploy.yml")

    def start(context: ssl.SSLContext) -> None:
        threading.Thread(target=renew, args=(context, *files), name="certificate", daemon=True).start()

    flower_private.serve_superlink(lambda app: Guard(app, database), start)


if __name__ == "__main__":
    main()
