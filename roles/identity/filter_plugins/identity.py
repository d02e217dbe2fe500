"""What a certificate must be: judged here, where the clock is right, by what hosts show of theirs."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LONGEST_NAME = 64  # characters of a subject
# What reading a document raises that somebody has made up
UNREADABLE = (
    ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
USAGES = {"clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH, "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH}

Document = Mapping[str, Any]


def wanted_of_device(host: str) -> dict[str, Any]:
    """Return what a device's certificate is for."""
    name = quote(host, safe="")
    return {"name": name[:LONGEST_NAME], "names": [f"URI:flowerbed:device/{name}"], "usage": "clientAuth"}


def wanted_of_server(addresses: Collection[str]) -> dict[str, Any]:
    """Return what the server's certificate is for: all by which devices, and programs of its own machine, reach it."""
    names = {_address(str(address)) for address in (*addresses, *LOOPBACK)}
    return {"name": "flowerbed-server", "names": sorted(names), "usage": "serverAuth"}


def _address(address: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(address)}"
    except ValueError:
        return f"DNS:{address.rstrip('.').lower()}"


def authority_lasts(found: Document) -> bool:
    """Whether there is an authority, with its key, of whose certificate's life a third is left."""
    certificate = _certificate(found["authority"])
    key = found["authority_key"].encode()
    if certificate is None or not key:
        return False
    return _key(certificate) == _key(serialization.load_pem_public_key(key)) and _lasts(certificate)


def verdict(found: Document, wanted: Document, authority: str) -> dict[str, Any]:
    """Return what is wrong with a host's request (the end of a sentence), and whether it needs a new certificate."""
    if not found.get("request"):
        return {"problem": "", "sign": False}  # a check, which makes no key
    signer = _certificate(authority)
    if signer is None:
        return {"problem": "has nobody to sign its certificate: the server has no authority", "sign": False}
    try:
        request = x509.load_pem_x509_csr(found["request"].encode())
        if not (request.is_signature_valid and _fits(request, wanted) and _asks_for_no_more(request)):
            raise ValueError
    except UNREADABLE:
        return {"problem": "asks for another certificate than the one that it should have", "sign": False}
    return {"problem": "", "sign": not _is_good(found["certificate"], request, wanted, signer)}


def _is_good(pem: str, request: x509.CertificateSigningRequest, wanted: Document, signer: x509.Certificate) -> bool:
    """Whether a certificate is what a request asks for, made by this authority, and lasts."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(signer)
        return _key(certificate) == _key(request) and _fits(certificate, wanted) and _lasts(certificate)
    except UNREADABLE:
        return False


def _asks_for_no_more(request: x509.CertificateSigningRequest) -> bool:
    """Whether a request has a key of the right kind, and asks for nothing but what a host may have."""
    key, extensions = request.public_key(), request.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    return (
        isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(key.curve, ec.SECP384R1)
        and len(extensions) == 4  # with those that _fits looks at
        and not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        and not (usage.key_cert_sign or usage.crl_sign)
    )


def _fits(document: x509.Certificate | x509.CertificateSigningRequest, wanted: Document) -> bool:
    """Whether a request or certificate is for the names and the usage that it should be for."""
    names = document.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = document.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    subject = [(attribute.oid, attribute.value) for attribute in document.subject]
    return (
        subject == [(NameOID.COMMON_NAME, wanted["name"])]
        and sorted(map(_named, names)) == sorted(wanted["names"])
        and list(usage) == [USAGES[wanted["usage"]]]
    )


def _named(name: x509.GeneralName) -> str:
    """Return an alternative name as it is asked for."""
    kinds = {x509.DNSName: "DNS", x509.IPAddress: "IP", x509.UniformResourceIdentifier: "URI"}
    return f"{kinds.get(type(name), 'another')}:{name.value}"


def _lasts(certificate: x509.Certificate) -> bool:
    """Whether a certificate is valid, and more than a third of its life is left."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin <= datetime.now(begin.tzinfo) < end - (end - begin) / 3


def _certificate(pem: str) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return None


def _key(owner: Any) -> bytes:
    """Return the public key of a certificate or a request, or a public key itself, in a form to compare."""
    key = owner.public_key() if hasattr(owner, "subject") else owner
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def certificate(host: Document) -> str:
    """Return the certificate that a host of a play has from now on, as PEM without a last newline; "" for none.

    `host` has what the tasks of the role identity returned.
    """
    signed = host.get("identity_signed", {}).get("certificate")
    found = _certificate(signed or host.get("identity_found", {}).get("certificate", ""))
    return found.public_bytes(serialization.Encoding.PEM).decode().strip() if found else ""


def fingerprints(hosts: Collection[str], hostvars: Mapping[str, Document]) -> dict[str, str]:
    """Return by host the SHA-256 of the certificate that it has from now on, of those that have one."""
    pems = {host: certificate(hostvars[host]) for host in hosts}
    return {
        host: x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()
        for host, pem in pems.items()
        if pem
    }


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "identity_of_device": wanted_of_device,
            "identity_of_server": wanted_of_server,
            "identity_authority_lasts": authority_lasts,
            "identity_verdict": verdict,
            "identity_certificate": certificate,
            "identity_fingerprints": fingerprints,
        }
