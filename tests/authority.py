"""A fleet's authority, as a deployment makes one, for fleets that tests start by themselves."""

import datetime
import hashlib
import ipaddress
import json
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for a server and its devices; `folder` is the server's, in which devices are recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.devices: dict[str, str] = {}
        self._key = ec.generate_private_key(ec.SECP384R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Flowerbed")])
        now = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017 - there is no UTC on Python 3.10
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = (
            x509.CertificateBuilder().subject_name(self._name).issuer_name(self._name).public_key(self._key.public_key())
            .serial_number(1).not_valid_before(now - DAY).not_valid_after(now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        )  # fmt: skip

    def server(self, *names: str) -> None:
        """Give the server its identity, for loopback and other names."""
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
        self._issue(self.folder, "server", [*addresses, *map(x509.DNSName, ("localhost", *names))], "SERVER_AUTH")
        self._record()

    def device(self, folder: Path, name: str, days: tuple[float, float] = (-1, 365), recorded: bool = True) -> None:
        """Give a device its identity, valid for the `days` from now between these two."""
        certificate = self._issue(
            folder, name[:64], [x509.UniformResourceIdentifier(f"flowerbed:device/{quote(name)}")], "CLIENT_AUTH", days
        )
        if recorded:
            self.devices[name] = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
            self._record()

    def forget(self, name: str) -> None:
        """Take a device out."""
        del self.devices[name]
        self._record()

    def _record(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "devices.new").write_text(json.dumps(self.devices))
        (self.folder / "devices.new").replace(self.folder / "devices.json")

    def _issue(
        self, folder: Path, name: str, names: list, purpose: str, days: tuple[float, float] = (-1, 365)
    ) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP384R1())
        now = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017 - there is no UTC on Python 3.10
        certificate = (
            x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now + min(days[0], days[1] - 1) * DAY).not_valid_after(now + days[1] * DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, purpose)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        pem = serialization.Encoding.PEM
        (folder / "key.pem").touch(mode=0o600)
        (folder / "key.pem").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
        (folder / "authority.pem").write_bytes(self.certificate.public_bytes(pem))
        return certificate
