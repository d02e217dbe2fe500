"""Keys that never leave their host, and which certificates the server signs, uses again and records."""

import importlib.util
import json
import os
import shutil
import stat
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import python36

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "plugins/modules/identity_key.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


identity_key, identity = load(MODULE), load(ROOT / "roles/identity/filter_plugins/identity.py")
WANTED = identity.wanted_of_device("rpi-1")
DAY = timedelta(days=1)
NOW = datetime.now().astimezone()


# -- The key, on its host ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "tls"


def present(folder: Path, wanted: dict = WANTED, authority: bool = False, check: bool = False) -> dict:
    umask = os.umask(0o022)  # which the module sets for itself
    try:
        return identity_key.present(str(folder), wanted, authority, check)
    finally:
        os.umask(umask)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def test_a_key_is_made_once_for_its_owner_alone(folder):
    first = present(folder)
    key = (folder / "key.pem").read_bytes()
    assert (first["changed"], first["why"], first["certificate"]) == (True, "there was none", "")
    assert (mode(folder), mode(folder / "key.pem")) == (0o700, 0o600)
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----") and [path.name for path in folder.iterdir()] == ["key.pem"]
    second = present(folder)
    assert (second["changed"], second["why"]) == (False, "") and (folder / "key.pem").read_bytes() == key
    keys = [x509.load_pem_x509_csr(answer["request"].encode()).public_key() for answer in (first, second)]
    assert keys[0] == keys[1] == serialization.load_pem_private_key(key, None).public_key()
    assert key.splitlines()[1].decode() not in json.dumps([first, second])


def spoil(key: Path, how: str) -> None:
    """Do to a good key what may become of one."""
    if how == "it was of another kind":
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key))
    elif how == "RSA":
        openssl("genpkey", "-algorithm", "RSA", "-out", str(key))
    elif how == "with a password":
        openssl("pkcs8", "-topk8", "-in", str(key), "-out", f"{key}.1", "-passout", "pass:secret")
        os.replace(f"{key}.1", key)
    elif how == "half":
        key.write_bytes(key.read_bytes()[:100])
    elif how == "others could read it":
        key.chmod(0o640)
    elif how == "it was no file":
        key.rename(key.with_name("elsewhere.pem"))
        key.symlink_to("elsewhere.pem")
    else:
        key.unlink()
    if how != "others could read it" and key.exists():
        key.chmod(0o600)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("gone", "there was none"), ("half", "it could not be used"), ("RSA", "it was of another kind"),
        ("it was of another kind", ""), ("with a password", "it could not be used"),
        ("others could read it", ""), ("it was no file", ""),
    ],
)  # fmt: skip
def test_a_key_that_is_not_good_is_made_anew(folder, how, why):
    old = present(folder)["request"]
    spoil(folder / "key.pem", how)
    checked = present(folder, check=True)
    assert checked["changed"] and checked["request"] == "" and checked["why"].startswith(why or how)
    found = present(folder)
    assert found["changed"] and found["why"].startswith(why or how)
    assert mode(folder / "key.pem") == 0o600 and not (folder / "key.pem").is_symlink()
    keys = [x509.load_pem_x509_csr(request.encode()).public_key() for request in (old, found["request"])]
    assert keys[0] != keys[1]
    assert not present(folder)["changed"]


def test_a_folder_that_others_may_enter_is_closed_and_its_key_stays(folder):
    present(folder)
    folder.chmod(0o755)
    assert present(folder, check=True)["changed"] and mode(folder) == 0o755
    assert (present(folder)["why"], mode(folder)) == ("", 0o700)


def test_a_check_makes_nothing(folder):
    found = present(folder, check=True)
    assert (found["changed"], found["request"], folder.exists()) == (True, "", False)


def test_without_openssl_it_is_said(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(OSError, match="the command openssl is not there: install it"):
        present(folder)


def test_the_authoritys_key_is_looked_at_and_closed(folder):
    present(folder)
    assert present(folder, authority=True)["authority_key"] == ""
    shutil.copy(folder / "key.pem", folder / "authority.key")
    (folder / "authority.key").chmod(0o644)
    found = present(folder, authority=True)
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert serialization.load_pem_public_key(found["authority_key"].encode()) == key.public_key()
    assert found["changed"] and mode(folder / "authority.key") == 0o600
    assert not present(folder, authority=True)["changed"]
    (folder / "authority.key").write_text("no key")
    assert present(folder, authority=True)["authority_key"] == ""


def test_it_runs_on_the_python_of_a_jetson_nano(folder):
    python = python36.find("json")
    packages = Path(importlib.util.find_spec("ansible").origin).parents[1]
    (folder.parent / "only").mkdir()
    (folder.parent / "only/ansible").symlink_to(packages / "ansible")  # nothing else of this machine's Python
    done = subprocess.run(
        [python, MODULE], input=json.dumps({"ANSIBLE_MODULE_ARGS": {"folder": str(folder), **WANTED}}),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder.parent / "only")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert identity.verdict(json.loads(done.stdout), WANTED, AUTHORITY.pem) == {"problem": "", "sign": True}


# -- The certificate, judged on the controller ------------------------------------------------------------------------


class Authority:
    """An authority as the role makes one, with the same clock or another."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None, begin=NOW - DAY, days: int = 3650) -> None:
        self.key = key or ec.generate_private_key(ec.SECP384R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Flowerbed authority")])
        builder = x509.CertificateBuilder(self.name, self.name, self.key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(begin).not_valid_after(begin + days * DAY)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), True)
        self.pem = pem(builder.sign(self.key, hashes.SHA256()))

    def sign(self, request: str, begin=NOW - DAY, days: int = 366) -> str:
        """Return a certificate of all that a request asks for."""
        asked = x509.load_pem_x509_csr(request.encode())
        builder = x509.CertificateBuilder(self.name, asked.subject, asked.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(begin).not_valid_after(begin + days * DAY)
        for extension in asked.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return pem(builder.sign(self.key, hashes.SHA256()))

    @property
    def found(self) -> dict[str, str]:
        """What the server's own host shows of it."""
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {"authority": self.pem, "authority_key": public.decode()}


def pem(document) -> str:
    return document.public_bytes(serialization.Encoding.PEM).decode()


AUTHORITY = Authority()


@pytest.fixture(scope="module")
def request_(tmp_path_factory) -> str:
    return present(tmp_path_factory.mktemp("host") / "tls")["request"]


def judged(request: str, certificate: str, wanted: dict = WANTED) -> dict:
    return identity.verdict({"request": request, "certificate": certificate}, wanted, AUTHORITY.pem)


def test_a_good_certificate_is_used_again(request_):
    assert judged(request_, "") == {"problem": "", "sign": True}
    assert judged(request_, AUTHORITY.sign(request_)) == {"problem": "", "sign": False}


@pytest.mark.parametrize(
    ("begin", "sign"), [(-1, False), (-70, False), (-110, True), (-400, True), (2, True)]
)  # days; it is for 150
def test_a_certificate_is_replaced_when_a_third_of_its_life_is_left(request_, begin, sign):
    assert judged(request_, AUTHORITY.sign(request_, NOW + begin * DAY, days=150))["sign"] is sign


def test_a_certificate_that_is_not_this_hosts_or_this_authoritys_is_replaced(request_, tmp_path):
    of_another_key = present(tmp_path / "a")["request"]
    of_another_name = present(tmp_path / "b", identity.wanted_of_device("rpi-2"))["request"]
    of_a_server = present(tmp_path / "c", identity.wanted_of_server(["192.0.2.1"]))["request"]
    others = [AUTHORITY.sign(each) for each in (of_another_key, of_another_name, of_a_server)]
    others += [Authority().sign(request_), pem(x509.load_pem_x509_csr(request_.encode())), "no certificate", "{{ 1 }}"]
    assert [judged(request_, other) for other in others] == [{"problem": "", "sign": True}] * len(others)


def test_the_servers_certificate_is_replaced_when_its_addresses_change(tmp_path):
    wanted = identity.wanted_of_server(["192.0.2.1", "fd00::1", "Desk.local.", "127.0.0.1"])
    assert wanted["names"] == [
        "DNS:desk.local", "DNS:localhost", "IP:127.0.0.1", "IP:192.0.2.1", "IP:::1", "IP:fd00::1"
    ]  # fmt: skip
    request = present(tmp_path / "tls", wanted)["request"]
    certificate = AUTHORITY.sign(request)
    assert not judged(request, certificate, wanted)["sign"]
    now = identity.wanted_of_server(["192.0.2.1", "desk.local"])
    assert judged(present(tmp_path / "tls", now)["request"], certificate, now)["sign"]


@pytest.mark.parametrize("name", ["rpi 1/../ä%", "a" * 80, "-rpi$HOME\\x#"])
def test_any_inventory_name_will_do(tmp_path, name):
    wanted = identity.wanted_of_device(name)
    request = present(tmp_path / "tls", wanted)["request"]
    assert len(wanted["name"]) <= 64 and not judged(request, AUTHORITY.sign(request), wanted)["sign"]


def forged(key=None, name: str = WANTED["name"], names: list[str] | None = None, usage=None, more=()) -> str:
    """Return a request such as a device may make up."""
    urls = [x509.UniformResourceIdentifier(each.partition(":")[2]) for each in names or WANTED["names"]]
    extensions = [
        x509.SubjectAlternativeName(urls), x509.ExtendedKeyUsage(usage or [ExtendedKeyUsageOID.CLIENT_AUTH]),
        x509.KeyUsage(True, *[False] * 8), x509.BasicConstraints(False, None),
    ]  # fmt: skip
    kept = {type(extension): extension for extension in [*extensions, *more]}
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    for extension in kept.values():
        builder = builder.add_extension(extension, False)
    return pem(builder.sign(key or ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()))


OTHER = ["URI:flowerbed:device/rpi-2"]


@pytest.mark.parametrize(
    "asked",
    [
        {"key": rsa.generate_private_key(65537, 2048)}, {"key": ec.generate_private_key(ec.SECP256R1())},
        {"name": "rpi-2"}, {"names": OTHER}, {"names": WANTED["names"] + OTHER},
        {"usage": [ExtendedKeyUsageOID.SERVER_AUTH]},
        {"usage": [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]},
        {"more": [x509.BasicConstraints(True, None)]},
        {"more": [x509.KeyUsage(True, False, False, False, False, True, False, False, False)]},
        {"more": [x509.OCSPNoCheck()]},
    ],
)  # fmt: skip
def test_nothing_is_signed_but_what_a_device_should_ask_for(asked):
    assert judged(forged(), "") == {"problem": "", "sign": True}
    found = judged(forged(**asked), "")
    assert found["problem"].startswith("asks for another certificate") and not found["sign"]


@pytest.mark.parametrize("text", ["no request", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "{{ 1 }}"])
def test_what_is_no_request_is_refused(text):
    assert judged(text, "")["problem"]


def test_a_request_that_its_key_did_not_sign_is_refused(request_):
    lines = request_.splitlines()
    lines[-2] = lines[-2][:-8] + ("AAAA" if "AAAA" not in lines[-2] else "BBBB") + lines[-2][-4:]
    assert judged("\n".join(lines), "")["problem"]


def test_a_check_signs_nothing_and_a_server_without_an_authority_is_said(request_):
    assert identity.verdict({"request": ""}, WANTED, AUTHORITY.pem) == {"problem": "", "sign": False}
    assert "no authority" in identity.verdict({"request": request_, "certificate": ""}, WANTED, "")["problem"]


def test_an_authority_is_kept_while_its_certificate_lasts():
    assert identity.authority_lasts(AUTHORITY.found)
    aged = Authority(AUTHORITY.key, NOW - 2500 * DAY)
    assert not identity.authority_lasts(aged.found)
    assert not identity.authority_lasts({**AUTHORITY.found, "authority_key": ""})
    assert not identity.authority_lasts({**AUTHORITY.found, "authority": ""})
    assert not identity.authority_lasts({**AUTHORITY.found, "authority_key": Authority().found["authority_key"]})


def test_certificates_outlive_the_renewal_of_the_authoritys_own(request_):
    before = Authority(AUTHORITY.key, NOW - 2500 * DAY)
    assert judged(request_, before.sign(request_)) == {"problem": "", "sign": False}


def test_what_is_recorded_is_what_a_host_has_from_now_on(request_):
    old, new = AUTHORITY.sign(request_), AUTHORITY.sign(request_)
    hosts = {
        "kept": {"identity_found": {"certificate": old + "\n# a note\n"}, "identity_signed": {"skipped": True}},
        "signed": {"identity_found": {"certificate": old}, "identity_signed": {"certificate": new}},
        "checked": {"identity_found": {"certificate": ""}, "identity_signed": {"skipped": True}},
        "failed": {},
    }
    digests = [x509.load_pem_x509_certificate(each.encode()).fingerprint(hashes.SHA256()).hex() for each in (old, new)]
    assert identity.fingerprints(hosts, hosts) == dict(zip(["kept", "signed"], digests, strict=True))
    assert identity.certificate(hosts["kept"]) == old.strip() and identity.certificate(hosts["failed"]) == ""
