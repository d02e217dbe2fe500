"""Who is who, by TLS: an identity's files, and what is said of one that is not accepted.

A deployment places them in the folder `tls` beside a program's configuration. A device makes its key itself, and has
its certificate from the fleet's authority, which is on the server. The server has `devices.json` besides: by name, the
fingerprint of the one certificate that the last deployment recorded for a device.
"""

import hashlib
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..words import clean

FOLDER = "tls"
KEY, CERTIFICATE, AUTHORITY, DEVICES = "key.pem", "certificate.pem", "authority.pem", "devices.json"
URI = "flowerbed:device/"  # and a device's name, percent-encoded: the subject of its certificate
MOST_NAME = 80  # characters of a stranger's


class IdentityError(ValueError):
    """An identity that cannot be used; the message is a sentence's part: which file, and what is wrong with it."""


def context(folder: Path, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return what TLS needs at one end: SERVER_AUTH for a device, which looks at a server, else CLIENT_AUTH.

    Either end must show a certificate of the authority's. Raises IdentityError.
    """
    made = ssl.create_default_context(purpose, cafile=_readable(folder / AUTHORITY))
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_mode = ssl.CERT_REQUIRED
    if purpose is ssl.Purpose.CLIENT_AUTH:  # each connection shows its certificate anew
        made.options |= ssl.OP_NO_TICKET
        made.num_tickets = 0
    try:
        made.load_cert_chain(_readable(folder / CERTIFICATE), _readable(folder / KEY))
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(f"{folder / CERTIFICATE} and {KEY} cannot be used: {error}") from None
    return made


def _readable(path: Path) -> str:
    """Return a file's path. Raises IdentityError if it can't be read, or has nothing that TLS could use."""
    try:
        if b"-----BEGIN" in path.read_bytes():
            return str(path)
        raise IdentityError(f"{path} is not a file of PEM")
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from None


def devices(folder: Path) -> dict[str, str]:
    """Return the fingerprints of the devices' certificates, each with its device's name. Raises IdentityError."""
    path = folder / DEVICES
    try:
        recorded = json.loads(path.read_text())
        return {fingerprint.lower(): name for name, fingerprint in recorded.items()}
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError):
        raise IdentityError(f"{path} is not a JSON object of fingerprints by name") from None


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate's DER, in hexadecimal digits."""
    return hashlib.sha256(certificate).hexdigest()


def name_in(certificate: dict[str, Any] | None) -> str:
    """Return the device's name in a certificate, as ssl's getpeercert() gives it; "" if it has none."""
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI" and value.startswith(URI):
            return unquote(value.removeprefix(URI))
    return ""


# What OpenSSL calls it, and what it means to people. From verify(1) and ssl's reasons.
_VERIFIED = {
    9: "is not valid yet: is the clock right?",
    10: "has expired",
    18: "is not of this fleet's authority",
    19: "is not of this fleet's authority",
    20: "is not of this fleet's authority",
    21: "is not of this fleet's authority",
    26: "is not for this purpose",
    62: "is for another name",
    64: "is for another address",
}
_TOLD = {
    "CERTIFICATE_EXPIRED": "has expired",
    "UNKNOWN_CA": "is not of the authority that it knows",
    "CERTIFICATE_UNKNOWN": "does not satisfy it",
    "BAD_CERTIFICATE": "does not satisfy it",
    "CERTIFICATE_REQUIRED": "is missing",
    "CERTIFICATE_REVOKED": "was revoked",
    "DECRYPT_ERROR": "does not fit its key",
}
_OLD = ("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE")


def problem(error: BaseException) -> str | None:
    """Return what TLS found wrong, as the end of a sentence about the other end; None if the network is to blame."""
    if not isinstance(error, ssl.SSLError):
        return None
    reason = str(error.reason or "")
    if isinstance(error, ssl.SSLCertVerificationError):
        # not in OpenSSL's words, which name what the other end made up
        what = _VERIFIED.get(error.verify_code, f"cannot be verified ({clean(error.verify_message, MOST_NAME)})")
        return f"its certificate {what}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it shows no certificate"
    if any(word in reason for word in _OLD):
        return "it speaks a TLS older than 1.2"
    for word, meaning in _TOLD.items():
        if "ALERT" in reason and reason.endswith(word):
            return f"the certificate of this end, it says, {meaning}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or reason in ("UNEXPECTED_EOF_WHILE_READING", ""):
        return None
    return f"it does not speak TLS as it should ({clean(reason, MOST_NAME).lower().replace('_', ' ')})"
