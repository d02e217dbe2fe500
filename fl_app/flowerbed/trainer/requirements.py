"""What a task's requirements.txt asks for beyond what this Python has: python -m flowerbed.trainer.requirements FILE.

On a process device it is installed with pip, into a folder of this device's own, where nothing else is changed: what
this Python has already keeps its version. In an image nothing is installed. Arguments after FILE are pip's; `--check`
installs nothing. Prints whether anything was to be done, or exits with 1 and a sentence.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

FILE = "requirements.txt"
FOLDER = "packages"
_PARSERS = ("packaging", "pip._vendor.packaging", "setuptools._vendor.packaging", "pkg_resources.extern.packaging")
_CONTINUED = "\0"  # in place of a line's end that a backslash takes away
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RequirementError(ValueError):
    """The file cannot be used; the message is a sentence's end."""


def site(folder=FOLDER):
    """Return where modules lie in a folder that pip has installed to."""
    return os.path.join(os.path.abspath(folder), "lib", "python%d.%d" % sys.version_info[:2], "site-packages")


def use():
    """Let this process import what was installed here."""
    if os.path.isdir(site()) and site() not in sys.path:
        sys.path.append(site())


def lacking(path):
    """Return the lines of a requirements.txt that this Python does not meet. Raises RequirementError."""
    return [line for number, line in _lines(path) if not _is_met(line, path, number)]


def _lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise RequirementError("%s cannot be read (%s)" % (path, getattr(error, "strerror", None) or error)) from None
    found, number = [], 1
    for line in text.replace("\\\n", _CONTINUED).split("\n"):
        whole = re.sub(r"(^|\s)#.*", "", line.replace(_CONTINUED, " "))
        whole = re.split(r"(?:^|\s)-", whole, maxsplit=1)[0].strip()  # options are pip's alone
        found += [(number, whole)] if whole else []
        number += 1 + line.count(_CONTINUED)
    return found


def _is_met(line, path, number):
    parser = _parser()
    if parser is None or "@" in line or "/" in line:  # a file or an address has no version to compare
        match = _NAME.match(line)
        if not match:
            raise RequirementError("line %d of %s, %s, names no package" % (number, path, line[:40]))
        return _version(match.group()) is not None
    try:
        wanted = parser.Requirement(line)
    except Exception:  # each copy of the parser has an exception of its own
        raise RequirementError("line %d of %s, %s, is no requirement" % (number, path, line[:40])) from None
    if wanted.marker is not None and not wanted.marker.evaluate():
        return True
    version = _version(wanted.name)
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def _parser():
    for package in _PARSERS:
        try:
            return importlib.import_module(package + ".requirements")
        except ImportError:
            continue
    return None


def _version(name):
    try:
        metadata = importlib.import_module("importlib.metadata")  # since Python 3.8
    except ImportError:
        try:
            return importlib.import_module("pkg_resources").get_distribution(name).version
        except Exception:  # it has many
            return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install(path, arguments):
    """Install what a requirements.txt asks for into a folder of this device's own. Raises RequirementError."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    fresh = FOLDER + ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        listed = subprocess.run(pip + ["list", "--format", "freeze"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if listed.returncode:
            raise RequirementError("%s has no pip, which the task's %s needs: install it" % (sys.executable, FILE))
        with tempfile.NamedTemporaryFile(suffix=".txt") as constraints:
            constraints.write(listed.stdout)
            constraints.flush()
            command = ["install", "--quiet", "--prefix", fresh, "-r", path, "-c", constraints.name]
            done = subprocess.run(pip + command + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["pip failed"]
            raise RequirementError("pip cannot install what %s asks for: %s" % (path, errors[0][:300]))
        shutil.rmtree(FOLDER, ignore_errors=True)
        os.rename(fresh, FOLDER)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def main(path, arguments):
    """Do what the command line says; return the exit status."""
    check = "--check" in arguments
    arguments = [argument for argument in arguments if argument != "--check"]
    try:
        use()
        missing = lacking(path)
        if missing and not check:
            install(path, arguments)
            importlib.invalidate_caches()
            use()
            if lacking(path):
                raise RequirementError("pip has installed %s, but %s is not met" % (path, ", ".join(lacking(path))))
        print(json.dumps({"changed": bool(missing), "lacking": missing}))
        return 0
    except (RequirementError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
