"""Files that anybody may have made: only regular ones are opened, and no more is read than `dataset_limit`."""

import io
import os
import stat
import zipfile

from flowerbed.dataset import DatasetError

LIMIT = 4096  # MiB that a data set may take in memory, unless dataset_limit says otherwise
_BLOCK = 1 << 20  # bytes: a file makes room for all that it is asked for before it reads
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a bound


def open_regular(path):
    """Open the file `path` (text or bytes) to read its bytes. Raises DatasetError, for a pipe or a device, too."""
    path = encoded(path)
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind):
            return open(path, "rb")
    except OSError as error:
        raise DatasetError("%s cannot be read: %s" % (text(path), error.strerror)) from error
    what = "a folder" if stat.S_ISDIR(kind) else "no regular file but a pipe, a socket or a device"
    raise DatasetError("%s is %s, or a link to one: remove it" % (text(path), what))


def read(file, what, limit=LIMIT):
    """Return all bytes of an open file, which may be unpacked as it is read. Raises DatasetError above `limit` MiB."""
    content = io.BytesIO()
    for block in iter(lambda: file.read(_BLOCK), b""):
        content.write(block)
        check(content.tell(), what, limit)
    return content.getvalue()


def check(size, what, limit=LIMIT):
    """Raise DatasetError if `what` takes more than `limit` MiB: `size` is in bytes."""
    if size > limit << 20:
        raise DatasetError("%s takes more memory than dataset_limit allows (%d MiB): use less data, or raise it"
                           % (what, limit))  # fmt: skip


class Zip:
    """An open zip file: `names`, and `open(name)`. Damaged ones raise exceptions of many kinds.

    Some programs on Windows write a backslash for "/": in `names` it is "/".
    """

    def __init__(self, path):
        self.path = path
        self._file = open_regular(path)
        try:
            self._archive = zipfile.ZipFile(self._file)
        except BaseException:
            self._file.close()
            raise
        self._members = {_name(member).replace("\\", "/"): member for member in self._archive.infolist()}
        self.names = sorted(self._members)

    def open(self, name):
        """Return an open file of the member `name`, which yields no more bytes than it declares."""
        member = self._members[name]
        if member.compress_type not in _METHODS:
            raise DatasetError("%s in %s is packed in a rare way: pack it anew, with deflate" % (name, self.path))
        return self._archive.open(member)

    def size(self, name):
        """Return how many bytes a member has at most."""
        return self._members[name].file_size

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def _name(member):
    """Return a zip member's name: without the mark for UTF-8, it is often UTF-8 all the same."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def encoded(path):
    """Return a path as the bytes that it is on disk: UTF-8, whatever the locale."""
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


def text(path):
    """Return a path's bytes as text, whatever the locale."""
    return path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path


def reason(error):
    """Return the first line of what an exception says, or its kind."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
