"""The ends of logs and what commands say, for a support bundle. Runs on the device's Python, 3.6 or newer."""

import glob
import os
import subprocess
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: support_files
short_description: Collect the ends of logs and what commands say
description:
  - Changes nothing. Of a longer file or output only the end is taken, from the beginning of a line.
  - Takes what it is told, in this order, and no links. What it returns may hold secrets, so the task needs C(no_log).
options:
  folders:
    description: "Folders on the host by the name that they get: C(path), and C(files), the patterns of what is taken."
    type: dict
    default: {}
  commands: {description: 'Commands by the name that their output gets, a list of words each.', type: dict, default: {}}
  file_bytes: {description: Bytes of a file or an output that are taken., type: int, default: 200000}
  all_bytes: {description: Bytes that are taken in all., type: int, default: 2000000}
  seconds: {description: Seconds for all the commands together., type: float, default: 20}
"""

EXAMPLES = """
- name: Collect
  support_files:
    folders: {"": {path: /opt/flowerbed/rpi-1, files: ["logs/*.log"]}}
    commands: {disk.txt: [df, -h]}
  no_log: true
"""

RETURN = """
files: {description: 'Text by name.', type: dict, returned: always}
cut: {description: 'Names of those of which only the end was taken.', type: list, returned: always}
utc_offset: {description: 'Seconds that the host''s local time is ahead of UTC.', type: int, returned: always}
"""


def end_of(file, most):
    """Return the end of an open binary file as text, and whether something is left out."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - most))
    data = file.read(most)
    if size <= most:
        return data.decode("utf-8", "replace"), False
    return data[data.find(b"\n") + 1 :].decode("utf-8", "replace"), True


def said(command, seconds, most):
    """Return the end of what a command says, its last words where it fails, and whether something is left out."""
    with tempfile.TemporaryFile() as output:
        words = ""
        try:
            status = subprocess.call(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=seconds
            )
            words = f"(it ended with status {status})\n" if status else ""
        except subprocess.TimeoutExpired:
            words = f"(it took longer than {seconds:.0f} s)\n"
        except OSError as error:
            words = f"(it cannot be run: {error.strerror})\n"
        text, cut = end_of(output, most)
        return text + words, cut


def main():
    """Collect what is asked for."""
    module = AnsibleModule(
        {
            "folders": {"type": "dict", "default": {}},
            "commands": {"type": "dict", "default": {}},
            "file_bytes": {"type": "int", "default": 200000},
            "all_bytes": {"type": "int", "default": 2000000},
            "seconds": {"type": "float", "default": 20.0},
        },
        supports_check_mode=True,
    )
    given = module.params
    files, cut, left = {}, [], given["all_bytes"]
    deadline = time.time() + given["seconds"]

    def keep(name, text, is_cut):
        files[name] = text
        if is_cut:
            cut.append(name)
        return len(text.encode("utf-8", "replace"))

    for name, folder in given["folders"].items():
        for pattern in folder["files"]:
            for path in sorted(glob.glob(os.path.join(glob.escape(folder["path"]), pattern))):
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                try:
                    with open(path, "rb") as file:
                        taken = end_of(file, min(given["file_bytes"], left))
                except OSError as error:
                    taken = f"(it cannot be read: {error.strerror})\n", False
                left -= keep(os.path.join(name, os.path.relpath(path, folder["path"])), *taken)
    for name, command in given["commands"].items():
        most = min(given["file_bytes"], left)
        left -= keep(name, *said(command, max(0.1, deadline - time.time()), most))
    offset = time.localtime().tm_gmtoff
    module.exit_json(changed=False, files=files, cut=cut, utc_offset=offset)


if __name__ == "__main__":
    main()
