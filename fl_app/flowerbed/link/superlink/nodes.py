"""Register the devices' keys at the SuperLink, and take back all others.

python -m flowerbed.link.superlink.nodes HOME ADDRESS: the server's folder, and host:port of the SuperLink. On standard
input come the certificates of the devices that were just deployed to, by name, as JSON; tls/devices.json has the
fingerprint of each device's that the last deployment recorded. A node's name is the device's. Says in JSON what it
changed. It costs little where there is nothing to change: Flower is not even loaded.
"""

import json
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ... import flower_private
from ...flower_private import Node
from ...words import clean
from .. import identity
from .submit import CONNECTION, answers

START_SECONDS = 180.0  # until the SuperLink answers


def keys(certificates: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, bytes]:
    """Return each device's public key, by name, of the certificates that are on record."""
    found = {}
    for name, text in certificates.items():
        if recorded.get(name) == identity.fingerprint(ssl.PEM_cert_to_DER_cert(text)):
            public = x509.load_pem_x509_certificate(text.encode()).public_key()
            found[name] = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def changes(
    nodes: list[Node], keys: Mapping[str, bytes], recorded: Mapping[str, str]
) -> tuple[list[Node], dict[str, bytes]]:
    """Return which registered nodes must go, and which keys must be registered, by name.

    Nobody stays but devices on record; of those whose key is known, the one that has it.
    """
    owners = {key: name for name, key in keys.items()}
    nodes = [node for node in nodes if node.registered]
    gone = [
        node
        for node in nodes
        if node.name not in recorded
        or keys.get(node.name, node.key) != node.key
        or owners.get(node.key, node.name) != node.name
    ]
    there = {node.name for node in nodes if node not in gone}
    return gone, {name: key for name, key in keys.items() if name not in there}


def main() -> None:
    """Do so. Ends with a sentence where it can't."""
    home, address = Path(sys.argv[1]), sys.argv[2]
    database, tls = home / "superlink.db", home / identity.FOLDER
    try:
        recorded = {name: fingerprint for fingerprint, name in identity.devices(tls).items()}
    except identity.IdentityError as error:
        sys.exit(str(error))
    nodes = flower_private.nodes(database)
    gone, new = changes(nodes, keys(json.load(sys.stdin), recorded), recorded)
    if not new and gone and not answers(address, tls / identity.AUTHORITY):
        gone = []  # the guard takes them back before it lets anybody in
    if gone or new:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            del os.environ[name]
        os.environ |= {"FLWR_HOME": str(home / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        _wait(address, home)
        try:
            for node in gone:
                flower_private.command("supernode", "unregister", str(node.id), CONNECTION)
            flower_private.forget(database, list(new.values()))
            with tempfile.NamedTemporaryFile(suffix=".pub") as file:
                for name, key in new.items():
                    public = load_pem_public_key(key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
                    Path(file.name).write_bytes(public)
                    flower_private.command("supernode", "register", file.name, CONNECTION, f"--name={name}")
        except flower_private.CommandFailed as error:
            sys.exit(f"the SuperLink did not take the devices' keys: {error}")
    print(json.dumps({"registered": sorted(new), "unregistered": sorted(node.name for node in gone)}))


def _wait(address: str, home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(address, home / identity.FOLDER / identity.AUTHORITY):
        if time.monotonic() > deadline:
            log = home / "logs" / "superlink.log"
            last = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
            sys.exit(f"the SuperLink does not answer at {address}; it said last: {clean(last[0] if last else '')}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
