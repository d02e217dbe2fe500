"""A host's own key, made by the command openssl. Runs on the device's Python, 3.6 or newer."""

import base64
import os
import stat
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: identity_key
short_description: Make a host's key where it has no good one, and ask for a certificate of it
description:
  - The key is ECDSA on the curve P-384, in C(key.pem). It never leaves the host, and this module returns nothing of it.
  - A key that is missing, cannot be read, is of another kind or could be read by others is made anew.
  - Needs nothing on the host but the command C(openssl).
options:
  folder: {description: Folder for key and certificates; only its owner may enter it., type: path, required: true}
  name: {description: 'Name that the request is for, of letters, digits and . _ ~ % -.', type: str, required: true}
  names:
    description: Alternative names that the request is for, each with its kind, such as C(DNS:localhost).
    type: list
    elements: str
    required: true
  usage:
    description: What the certificate is for.
    type: str
    choices: [clientAuth, serverAuth]
    required: true
  authority: {description: Whether the folder is the authority's as well., type: bool, default: false}
"""

EXAMPLES = """
- name: Make the key
  identity_key: {folder: /opt/me/tls, name: rpi-1, names: ["URI:flowerbed:device/rpi-1"], usage: clientAuth}
  register: identity_found
"""

RETURN = """
request: {description: 'Request for a certificate, as PEM; "" where a check finds no key.', type: str, returned: always}
certificate: {description: 'What certificate.pem holds, "" for nothing.', type: str, returned: always}
authority: {description: 'What authority.pem holds, "" for nothing.', type: str, returned: always}
authority_key:
  description: 'The public half of authority.key, as PEM; "" where there is none, or none that can be used.'
  type: str
  returned: always
why: {description: 'Why a key is made, "" where none is.', type: str, returned: always}
"""

# A public key on P-384 in DER, but for its point
P384 = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
LONGEST = 1 << 16  # bytes of a file with a certificate
CONFIGURATION = """[req]
prompt = no
distinguished_name = subject
req_extensions = extensions
[subject]
CN = {name}
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = {usage}
subjectAltName = @names
[names]
{names}
"""


class Refused(Exception):
    """What openssl says when it does not do what it is asked."""


def openssl(*arguments, **options):
    """Return what openssl writes. It asks for no password: a key that has one is none of ours. Raises Refused."""
    given = options.get("given", "").encode()
    try:
        done = subprocess.run(  # noqa: UP022 - Python 3.6
            ("openssl",) + arguments, input=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120
        )
    except FileNotFoundError:
        raise OSError("the command openssl is not there: install it (sudo apt-get install openssl)") from None
    except subprocess.TimeoutExpired:
        raise OSError("the command openssl did not end within two minutes") from None
    if done.returncode != 0:
        raise Refused((done.stderr.decode("utf-8", "replace").strip() or "it gives no reason").splitlines()[-1])
    return done.stdout.decode()


def request(key, name, names, usage):
    """Return a request for a certificate of the key in a file, as PEM. Raises Refused."""
    kinds = [each.partition(":") for each in names]
    listed = "\n".join(f"{kind}.{number} = {value}" for number, (kind, _, value) in enumerate(kinds))
    configuration = CONFIGURATION.format(name=name, usage=usage, names=listed)
    arguments = ("-key", key, "-passin", "pass:", "-config", "/dev/stdin")
    return openssl("req", "-new", "-sha256", *arguments, given=configuration)


def is_on_p384(pem):
    """Whether a request is for a key of the kind that is made here."""
    return P384 in base64.b64decode("".join(pem.splitlines()[1:-1]))


def flaw(key):
    """Return what is wrong with a key's file by its looks, "" for nothing."""
    try:
        found = os.lstat(key)
    except FileNotFoundError:
        return "there was none"
    if not stat.S_ISREG(found.st_mode):
        return "it was no file"
    if found.st_uid != os.geteuid():
        return "it was another user's"
    return "others could read it" if found.st_mode & 0o077 else ""


def make_key(key):
    """Make a key, which nobody sees half. Raises OSError where others can read what its owner alone should."""
    fresh = key + ".new"
    os.umask(0o077)
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-pkeyopt",
            "ec_param_enc:named_curve", "-out", fresh)  # fmt: skip
    if os.stat(fresh).st_mode & 0o077:
        os.unlink(fresh)
        raise OSError("its file system lets all users read all files: set fl_home to a folder on another one")
    with open(fresh, "rb") as file:
        os.fsync(file.fileno())
    os.rename(fresh, key)


def close_folder(folder, check):
    """Let nobody but its owner enter a folder, which is made if need be; return whether it was not so."""
    if not os.path.isdir(folder):
        if not check:
            os.mkdir(folder, 0o700)
        return True
    found = os.stat(folder)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return False
    if not check:
        if found.st_uid != os.geteuid():
            os.chown(folder, os.geteuid(), os.getegid())
        os.chmod(folder, 0o700)
    return True


def text(path):
    """Return what a file with a certificate holds, "" where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(LONGEST).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def authority_key(path, check):
    """Return the public half of the authority's key, and whether others could read it, which they no longer can."""
    try:
        exposed = bool(os.stat(path).st_mode & 0o077)
    except FileNotFoundError:
        return "", False
    if exposed and not check:
        os.chmod(path, 0o600)
    try:
        return openssl("pkey", "-in", path, "-passin", "pass:", "-pubout"), exposed
    except Refused:
        return "", exposed


def present(folder, wanted, authority, check):
    """Do what is asked, and return the answer."""
    changed = close_folder(folder, check)
    key, why, pem = os.path.join(folder, "key.pem"), "", ""
    why = flaw(key)
    if not why:
        try:
            pem = request(key, **wanted)
            why = "" if is_on_p384(pem) else "it was of another kind"
        except Refused as error:
            why = f"it could not be used ({error})"
    if why:
        pem = ""
        if not check:
            make_key(key)
            pem = request(key, **wanted)
    public, exposed = authority_key(os.path.join(folder, "authority.key"), check) if authority else ("", False)
    return {
        "changed": bool(changed or why or exposed),
        "why": why,
        "request": pem,
        "certificate": text(os.path.join(folder, "certificate.pem")),
        "authority": text(os.path.join(folder, "authority.pem")),
        "authority_key": public,
    }


def main():
    """Do what is asked."""
    module = AnsibleModule(
        {
            "folder": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "usage": {"type": "str", "choices": ["clientAuth", "serverAuth"], "required": True},
            "authority": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    folder = module.params["folder"]
    wanted = {name: module.params[name] for name in ("name", "names", "usage")}
    try:
        module.exit_json(**present(folder, wanted, module.params["authority"], module.check_mode))
    except (OSError, Refused) as error:
        module.fail_json(msg=f"Cannot make a key in {folder}: {error}.")


if __name__ == "__main__":
    main()
