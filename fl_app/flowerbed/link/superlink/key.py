"""Start a SuperNode with the device's own key: python -m flowerbed.link.superlink.key KEY flower-supernode ARGUMENTS….

A SuperNode reads no key but one in OpenSSH's form, and a device's has the form that TLS needs. The second form is on no
disk: the SuperNode reads it from a pipe.
"""

import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key


def pipe(key: Path) -> int:
    """Return the number of an open file that has the key in OpenSSH's form, for the program that this one becomes."""
    private = load_pem_private_key(key.read_bytes(), password=None)
    read, write = os.pipe()
    with open(write, "wb") as file:
        file.write(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    os.set_inheritable(read, True)
    return read


def main() -> None:
    """Become the program."""
    key, program = Path(sys.argv[1]), sys.argv[2:]
    try:
        number = pipe(key)
    except (OSError, ValueError) as error:
        sys.exit(f"{key} cannot be used as the device's key ({error}): run deploy.yml, which has it made")
    os.execvp(program[0], [*program, f"--auth-supernode-private-key=/dev/fd/{number}"])


if __name__ == "__main__":
    main()
