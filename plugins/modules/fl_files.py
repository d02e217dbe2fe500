"""The device's side of fl_files: say which files differ, and unpack those that the controller sends."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tarfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: fl_files
short_description: Place all files of a program in one step, and remove all that were placed
description:
  - Compares many files with one call per host, and sends only those that differ, in one archive.
  - Works with check mode and shows the difference of templates, never that of data.
  - With C(owns) it writes down what it places (placed.json in C(home)), and which folders it made. It refuses a folder
    that holds anything else when it first comes there. C(absent) removes what stands there and what Flowerbed's
    programs are known to write beside it, then folders that are empty. All else stays.
options:
  home: {description: The folder on the host that all other paths are in., type: path, required: true}
  state: {description: What to do., choices: [present, absent], type: str, default: present}
  owns:
    description: >-
      That the folder is Flowerbed's own. C(root), the folder that it shares with other hosts' of the machine; C(homes),
      all hosts' folders; C(known), paths of what else may be in these.
    type: dict
  files: {description: 'Path on the host: file on the controller.', type: dict}
  folders:
    description: >-
      Path on the host: folder on the controller. The host's has the same files afterwards, and no others that were
      placed there.
    type: dict
  templates: {description: 'Path on the host: template on the controller.', type: dict}
  digest_templates:
    description: >-
      Templates that may use C(digest), a checksum of all the other files. A program whose supervisor section
      contains it is restarted when one of them changes, even if the deployment that changed them was cut short.
    type: dict
  downloads: {description: 'Data set: its files in downloads in C(root), which absent removes, too.', type: dict}
  keep: {description: 'Files in C(home) that absent leaves, for a later one.', type: list, elements: str}
"""

EXAMPLES = """
- name: Place the files of the trainer
  fl_files:
    home: /home/pi/flowerbed/rpi-1
    owns: {root: /home/pi/flowerbed, homes: [/home/pi/flowerbed/rpi-1], known: []}
    folders: {app/flowerbed: fl_app/flowerbed}
    templates: {trainer.json: trainer.json.j2}
    digest_templates: {programs/trainer.conf: program.conf.j2}
"""

RETURN = """
placed: {description: Files that were written, or would be., type: list, returned: present}
removed: {description: Files that were removed, or would be., type: list, returned: always}
digest: {description: Checksum of all files but digest_templates., type: str, returned: present}
left: {description: 'What is still there, by folder, for it is not Flowerbed''s.', type: dict, returned: absent}
"""

# In a host's folder: the files that were placed there, and the folders that were made for it. In the folder that hosts
# share: the folders that were made for that.
RECORD = "placed.json"
MARK = "flowerbed.json"

# What Flowerbed's programs write in a host's folder, and the folders in it that are looked through for that
PRODUCTS = re.compile(
    r"supervisord\.(pid|sock(\.\d+)?)|(trainer|control)\.sock|superlink\.db(\.new)?(-\w+)?"
    r"|logs/(supervisord|trainer|client|server|superlink|supernode)\.log(\.\d+)?"
    r"|tls/(key\.pem|authority\.(key|pem))(\.new)?"
    r"|slots/(bell|slot-\d+)"
    r"|(state|packages|packages\.new)/.*"
    r"|app/(.+/)?__pycache__/[^/]+\.pyc(\.\d+)?"
    r"|shards/((manifest|shares)\.json|\.state\.json|[^/]+/(train|heldout)\.npz|\.(staging|fetched)/.*)"
    r"|flwr/(source|apps/.*)"
)
FOLDERS = ("app", "logs", "programs", "slots", "state", "packages", "packages.new", "shard", "shards", "flwr", "tls")
# What a Flowerbed that wrote nothing down placed
EARLIER = re.compile(
    r"(trainer|client|server|deployed)\.json|supervisord\.conf|programs/(trainer|client|server)\.conf"
    r"|app/(task|sitecustomize)\.py|app/flowerbed/.*|shard/(train|heldout)\.npz|flwr/config\.toml"
)
# What roles write beside the hosts' folders
BEFORE = re.compile(r"(raspberry_pi|jetson|docker_engine|device_image)\.json(\.new)?|jetson_clocks\.conf")
LOST = "lost+found"  # a file system's own
SHOWN = 5  # names in a sentence


def read(path):
    """Return the object in a JSON file of ours, or None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        return document if isinstance(document, dict) else None
    except (OSError, ValueError):
        return None


def write(path, document):
    """Write a JSON file that is never seen half."""
    fresh = path + ".new"
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, sort_keys=True)
    os.rename(fresh, path)


def names(folder):
    """Return what is in a folder, sorted; nothing where it is not there."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_in(home, tops=FOLDERS):
    """Return the files in a host's folder and in its folders `tops`, relative to it. No link is followed."""
    files = [name for name in names(home) if not os.path.isdir(os.path.join(home, name))]
    for top in tops:
        for folder, _, inside in os.walk(os.path.join(home, top)):
            files += [os.path.relpath(os.path.join(folder, name), home) for name in inside]
    return sorted(files)


def is_ours(folder):
    """Whether a host's folder was deployed to, also by a Flowerbed that wrote nothing down."""
    if read(os.path.join(folder, RECORD)) is not None:
        return True
    if all(os.path.isfile(os.path.join(folder, path)) for path in ("trainer.json", "app/flowerbed/__init__.py")):
        return True
    with contextlib.suppress(OSError), open(os.path.join(folder, "supervisord.conf"), encoding="utf-8") as file:
        return "; The programs of this host are in programs/" in file.read()
    return False


def recorded(home):
    """Return what was placed in a host's folder, and the folders made for it; None where nothing was deployed."""
    record = read(os.path.join(home, RECORD))
    if record is None and is_ours(home):
        record = {"files": [path for path in files_in(home) if EARLIER.fullmatch(path)], "made": [home]}
    return record


def strangers(home, root, homes, known):
    """Return (variable, folder, names) of what is in the way of a first deployment, or None where nothing is."""
    if is_ours(home):
        return None
    inside = [root, *homes, *known]
    for variable, folder in (("fl_home", home), ("fl_root", root)):
        if folder == root and read(os.path.join(root, MARK)) is not None:
            continue
        others = [name for name in names(folder) if name != LOST and name not in below(folder, inside)]
        if folder == root:
            if any(is_ours(os.path.join(root, name)) for name in names(root)):
                continue
            others = [name for name in others if not _is_roles(os.path.join(root, name))]
        if others:
            return variable, folder, others
    return None


def below(folder, paths):
    """Return by which names in a folder one gets to `paths`."""
    return {os.path.relpath(path, folder).split(os.sep)[0] for path in paths if path != folder}


def _is_roles(path):
    """Whether roles, and nobody else, have written in a folder beside the hosts'."""
    inside = names(path)
    if os.path.basename(path) == "before":
        return all(map(BEFORE.fullmatch, inside))
    return os.path.basename(path) == "images" and "mirror.log" in inside


def make(folder):
    """Make a folder and those above it; return those that were not there, the highest first."""
    made = []
    while not os.path.isdir(folder):
        made.insert(0, folder)
        folder = os.path.dirname(folder)
    for each in made:
        with contextlib.suppress(FileExistsError):  # another host was as quick
            os.mkdir(each)
    return made


@contextlib.contextmanager
def alone(folder):
    """Keep other hosts of this machine from the folder that they share."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def claim(home, root):
    """Make a host's folder Flowerbed's own; return whether it was not yet."""
    if read(os.path.join(home, RECORD)) is not None and read(os.path.join(root, MARK)) is not None:
        return False
    earlier = recorded(home)
    made = make(root)
    with alone(root):
        mark = read(os.path.join(root, MARK)) or {"made": [root] if earlier else []}
        write(os.path.join(root, MARK), {"made": mark["made"] + [path for path in made if path not in mark["made"]]})
    made = make(home)
    write(os.path.join(home, RECORD), earlier or {"files": [], "made": made})
    return True


def strays(home, folders, wanted, placed):
    """Return the paths, relative to `home`, of files in `folders` that are not `wanted`; Python's caches stay.

    `placed` are those that may be removed, None for all.
    """
    files = [path for path in files_in(home, folders) if os.path.dirname(path)]
    files = [path for path in files if os.path.basename(os.path.dirname(path)) != "__pycache__"]
    return sorted(path for path in set(files) - set(wanted) if placed is None or path in placed)


def mode(path):
    """Return the mode of a file in a host's folder: a program's environment, wherever it is, is its user's alone."""
    return 0o600 if path.startswith("programs/") or path == "deployed.json" else 0o644


def is_exposed(home, path):
    """Whether other users can read a file in a host's folder that is not theirs, as an earlier Flowerbed placed it."""
    path, private = os.path.join(home, path), mode(path) == 0o600
    return private and os.path.exists(path) and os.stat(path).st_mode & 0o077 != 0


def unpack(home, archive, paths):
    """Move the files `paths` of the tar file `archive` below `home`, each in one atomic step."""
    with tarfile.open(archive) as tar:
        for path in paths:
            target = os.path.join(home, path)
            if not os.path.isdir(os.path.dirname(target)):
                os.makedirs(os.path.dirname(target))
            fresh = target + ".new"
            with open(fresh, "wb") as file:
                os.chmod(fresh, mode(path))
                shutil.copyfileobj(tar.extractfile(path), file)
            os.rename(fresh, target)


def remove_folders(folders):
    """Remove those of `folders` that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def clear(home, files):
    """Remove files of a host's folder, and the folders in it that this leaves empty; return what was there."""
    removed, folders = [], {top for top in FOLDERS if not os.path.islink(os.path.join(home, top))}
    for path in files:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(os.path.join(home, path))
            removed.append(path)
        while os.path.dirname(path):
            path = os.path.dirname(path)
            folders.add(path)
    remove_folders(os.path.join(home, path) for path in sorted(folders, key=len, reverse=True))
    return removed


def absent(home, owns, downloads, keep, check):
    """Remove what was placed, and what programs wrote beside it; return (what was removed, what is left by folder)."""
    root, record = owns["root"], recorded(home)
    if not os.path.isdir(root) or check and record is None:
        return [], {}
    files = _ours(home, record["files"], keep) if record else []
    downloads = [os.path.join("downloads", name, file) for name in downloads for file in downloads[name]]
    downloads = [path for path in downloads if os.path.isfile(os.path.join(root, path))]
    if check:
        return downloads + files, {}
    removed = clear(root, downloads) + clear(home, files)
    for top in ("state", "packages"):  # programs make folders there that may be empty
        remove_folders(folder for folder, _, _ in os.walk(os.path.join(home, top), topdown=False))
    with alone(root):
        keep = [path for path in keep if record and os.path.exists(os.path.join(home, path))]
        if keep:
            write(os.path.join(home, RECORD), {"files": keep, "made": record["made"]})
        elif record:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(home, RECORD))
                removed.append(RECORD)
            remove_folders(reversed(record["made"]))
        remove_folders([os.path.join(root, "before")])
        freed = bool(record) and not os.path.exists(home) and home.startswith(os.path.join(root, ""))
        left = leave_root(root, freed)
    left = {root: left, home: names(home) if record else []}
    ours, inside = {MARK, LOST, *keep, *([RECORD] if keep else [])}, [root, *owns["homes"], *owns["known"]]
    for folder in left:
        left[folder] = [name for name in left[folder] if name not in ours | below(folder, inside)]
    return removed, {folder: others for folder, others in left.items() if others}


def _ours(home, placed, keep):
    """Return the files in a host's folder that are Flowerbed's: placed there, half placed, or its programs'."""
    files = set(files_in(home)) | {path for path in placed if os.path.lexists(os.path.join(home, path))}
    placed = {*placed, *(path + ".new" for path in placed)}
    ours = {path for path in files if path in placed or PRODUCTS.fullmatch(path)}
    return sorted(ours - {*keep, RECORD})


def leave_root(root, freed):
    """Take the mark off the folder that hosts share, once none of them is there; return what is left in it then.

    `freed` says that a host's folder was just removed from it: that of a Flowerbed that wrote nothing down has no mark.
    """
    others = [name for name in names(root) if name != MARK]
    mark = read(os.path.join(root, MARK))
    if mark is None and freed:
        remove_folders([root])
    if mark is None or any(is_ours(os.path.join(root, name)) for name in [*others, "."]):
        return []
    os.unlink(os.path.join(root, MARK))
    remove_folders(reversed(mark["made"]))
    return others


def listed(items):
    """Return names of files as a sentence has them."""
    shown = [os.fsencode(name).decode("utf-8", "replace") for name in items[:SHOWN]]
    shown = ["".join(sign if sign.isprintable() else "?" for sign in name) for name in shown]
    return ", ".join(shown) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def present(module, owns):
    """Compare, and with `archive` also write; return the answer."""
    home, wanted = module.params["home"], module.params["checksums"]
    claimed, record = False, None
    if owns:
        way = strangers(home, owns["root"], owns["homes"], owns["known"])
        if way:
            variable, folder, others = way
            module.fail_json(
                msg=f"{variable} is {folder}, which already holds something else ({listed(others)}): "
                f"set {variable} to a new or empty folder, such as {folder}/flowerbed."
            )
        record = recorded(home)
        claimed = not module.check_mode and claim(home, owns["root"])
    differ = {path for path in wanted if module.sha256(os.path.join(home, path)) != wanted[path]}
    place = sorted(differ | {path for path in wanted if is_exposed(home, path)})
    remove = strays(home, module.params["folders"], wanted, record["files"] if record else None)
    before = {}
    for path in set(place) & set(module.params["show"]):
        if os.path.exists(os.path.join(home, path)):
            with open(os.path.join(home, path), "rb") as file:
                before[path] = file.read().decode("utf-8", "replace")
    if module.params["archive"]:
        if owns:  # first, so that a deployment that is cut short leaves nothing that nobody knows of
            record = read(os.path.join(home, RECORD))
            record["files"] = sorted((set(record["files"]) | set(wanted)) - set(remove))
            write(os.path.join(home, RECORD), record)
        unpack(home, module.params["archive"], place)
        for path in remove:
            os.unlink(os.path.join(home, path))
    return {"changed": bool(place or remove or claimed), "placed": place, "removed": remove, "before": before}


def main():
    """Do what is asked."""
    module = AnsibleModule(
        {
            "home": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "owns": {"type": "dict"},
            "checksums": {"type": "dict", "default": {}},  # path: SHA-256
            "folders": {"type": "list", "elements": "str", "default": []},  # those with no other files of ours
            "show": {"type": "list", "elements": "str", "default": []},  # the ones whose old text is wanted
            "archive": {"type": "path"},
            "downloads": {"type": "dict", "default": {}},
            "keep": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    home, owns = module.params["home"], module.params["owns"]
    try:
        if module.params["state"] == "absent":
            removed, left = absent(home, owns, module.params["downloads"], module.params["keep"], module.check_mode)
            left = {folder: listed(others) for folder, others in left.items()}
            module.exit_json(changed=bool(removed), removed=removed, left=left)
        module.exit_json(**present(module, owns))
    except OSError as error:
        module.fail_json(msg=f"Cannot change the files in {home}: {error}.")


if __name__ == "__main__":
    main()
