"""The device's side of fl_files: say which files differ, and unpack those that the controller sends."""

import os
import shutil
import tarfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: fl_files
short_description: Place all files of a program in one step
description:
  - Compares many files with one call per host, and sends only those that differ, in one archive.
  - Works with check mode and shows the difference of templates, never that of data.
options:
  home: {description: The folder on the host that all other paths are in., type: path, required: true}
  files: {description: 'Path on the host: file on the controller.', type: dict}
  folders:
    description: >-
      Path on the host: folder on the controller. The host's has the same files afterwards and no others.
    type: dict
  templates: {description: 'Path on the host: template on the controller.', type: dict}
  sealed:
    description: >-
      Templates that may use C(digest), a checksum of all the other files. A program whose supervisor section
      contains it is restarted when one of them changes, even if the deployment that changed them was cut short.
    type: dict
"""

EXAMPLES = """
- name: Place the files of the trainer
  fl_files:
    home: /home/pi/flowerbed
    folders: {app/flowerbed: fl_app/flowerbed}
    templates: {trainer.json: trainer.json.j2}
    sealed: {programs/trainer.conf: program.conf.j2}
"""

RETURN = """
placed: {description: Files that were written, or would be., type: list, returned: always}
removed: {description: Files that were removed, or would be., type: list, returned: always}
digest: {description: Checksum of all files but those that are sealed., type: str, returned: always}
"""


def strays(home, folders, wanted):
    """Return the paths, relative to `home`, of files in `folders` that are not `wanted`; Python's caches stay."""
    found = [
        os.path.relpath(os.path.join(folder, name), home)
        for top in folders
        for folder, _, names in os.walk(os.path.join(home, top))
        for name in names
        if os.path.basename(folder) != "__pycache__"
    ]
    return sorted(set(found) - set(wanted))


def unpack(module, home, archive, paths):
    """Move the files `paths` of the tar file `archive` below `home`, each in one atomic step."""
    with tarfile.open(archive) as tar:
        for path in paths:
            target = os.path.join(home, path)
            if not os.path.isdir(os.path.dirname(target)):
                os.makedirs(os.path.dirname(target))
            fresh = target + ".new"
            with open(fresh, "wb") as file:
                shutil.copyfileobj(tar.extractfile(path), file)
            os.chmod(fresh, 0o644)
            os.rename(fresh, target)


def main():
    """Compare, and with `archive` also write."""
    module = AnsibleModule(
        {
            "home": {"type": "path", "required": True},
            "checksums": {"type": "dict", "required": True},  # path: SHA-256
            "folders": {"type": "list", "elements": "str", "required": True},  # the ones with no other files
            "show": {"type": "list", "elements": "str", "required": True},  # the ones whose old text is wanted
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    home, wanted = module.params["home"], module.params["checksums"]
    place = sorted(path for path in wanted if module.sha256(os.path.join(home, path)) != wanted[path])
    remove = strays(home, module.params["folders"], wanted)
    before = {}
    for path in set(place) & set(module.params["show"]):
        if os.path.exists(os.path.join(home, path)):
            with open(os.path.join(home, path), "rb") as file:
                before[path] = file.read().decode("utf-8", "replace")
    if module.params["archive"]:
        try:
            unpack(module, home, module.params["archive"], place)
            for path in remove:
                os.unlink(os.path.join(home, path))
        except OSError as error:
            module.fail_json(msg=f"Cannot write the files in {home}: {error}.")
    module.exit_json(changed=bool(place or remove), placed=place, removed=remove, before=before)


if __name__ == "__main__":
    main()
