"""A device's own data as arrays by name, for a task of any kind: `read` is what its `load_data` calls.

numpy alone (pyarrow for Parquet), on Python 3.6: this runs inside a device's trainer.
"""

import os

from flowerbed.dataset import DatasetError, files, npy, shards, tables

MOST_NAMES = 12  # of a list in a sentence


def read(folder, names=None, heldout=0.1, shuffle=True):
    """Return (train, heldout) of the data in `folder`: each a dict of numpy arrays by name, or None.

    They are the files train.* and heldout.*: .npz, .npy, .csv, .tsv or .parquet, see `read_file`. Without heldout.*,
    the fraction `heldout` of train.* is split off, the same rows every time, or the last ones without `shuffle`, as
    sequences in time want it. `names` are the arrays or columns to read, if not all. Warns (DatasetWarning) of empty
    cells. Raises DatasetError.
    """
    shards.check_folder(folder)
    paths = _paths(folder)
    train, held = (read_file(path, names) if path else None for path in paths)
    if train is not None and held is not None:
        _check_alike(train, held, paths)
    return split_off(train, heldout, shuffle) if held is None else (train, held)


def read_file(path, names=None):
    """Return the arrays in one file, by name. Each has as many rows as the others: a row is an example.

    A .npy file's one array is called x. Columns of a CSV are int64 or float64, an empty cell being NaN, else text;
    without a line of names they are called 0, 1 and so on. Raises DatasetError.
    """
    wanted = [names] if isinstance(names, str) else names

    def choose(available):
        unknown = [name for name in wanted or [] if name not in available]
        if unknown:
            raise DatasetError("%s has no %s: it has %s" % (path, unknown[0], _listed(available)))
        return list(available if wanted is None else wanted)

    arrays = _READERS[_kind(path)](path, choose)
    if not arrays:
        raise DatasetError("%s holds no arrays" % path)
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        rows = ", ".join("%s %s" % (name, "none" if rows is None else rows) for name, rows in lengths.items())
        raise DatasetError("the arrays in %s have unequal numbers of rows (%s), but a row of each is an example: leave "
                           "the others out, or name those to read" % (path, rows))  # fmt: skip
    if 0 in lengths.values():
        raise DatasetError("%s holds no examples" % path)
    return arrays


def split_off(data, fraction, shuffle=True):
    """Split `fraction` of the rows off the arrays of `data`, the same every time: return (train, held-out or None).

    Without `shuffle` these are the last rows.
    """
    splits = shards.split_indices(len(next(iter(data.values()))), fraction, shuffle)
    return tuple({name: array[rows] for name, array in data.items()} if len(rows) else None for rows in splits)


def _npz(path, choose):
    def choose_members(members):
        arrays = {name[: -len(".npy")]: name for name in members if name.endswith(".npy")}
        return {name: arrays[name] for name in choose(arrays)}

    return npy.read_npz(path, choose_members, shards.limit)


def _npy(path, choose):
    return {name: npy.read_npy(path, shards.limit) for name in choose(["x"])}


def _csv(path, choose):
    return tables.read_csv(path, choose, shards.limit)


def _parquet(path, choose):
    return tables.read_parquet(path, choose, shards.limit)


_READERS = {".npz": _npz, ".npy": _npy, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
KINDS = tuple(_READERS)


def _kind(path):
    kind = os.path.splitext(path)[1].lower()
    if kind not in KINDS:
        raise DatasetError("%s is none of %s" % (path, " ".join(KINDS)))
    return kind


def _paths(folder):
    """Return the path of the file of each split, or None."""
    try:
        entries = sorted(map(files.text, os.listdir(files.encoded(folder))))
    except OSError as error:
        raise DatasetError("%s cannot be read: %s" % (folder, error.strerror)) from error
    paths = []
    for split in shards.SPLITS:
        names = [name for name in entries if os.path.splitext(name)[0] == split]
        names = [name for name in names if os.path.splitext(name)[1].lower() in KINDS]
        if len(names) > 1:
            raise DatasetError("%s holds %s: leave one of them" % (folder, " and ".join(names)))
        paths.append(os.path.join(folder, names[0]) if names else None)
    if not any(paths):
        kinds = ", ".join("train" + kind for kind in KINDS)
        raise DatasetError("%s holds %s, but none of %s: rename this device's data, or read it in load_data of the task"
                           % (folder, _listed(entries), kinds))  # fmt: skip
    return paths


def _check_alike(train, held, paths):
    for name in list(train) + list(held):
        if name not in train or name not in held:
            having, lacking = paths if name in train else reversed(paths)
            raise DatasetError("%s has %s, but %s has not: give both the same, or name those to read"
                               % (having, name, lacking))  # fmt: skip
        for what, (one, other) in {
            "rows of the shape %s": (train[name].shape[1:], held[name].shape[1:]),
            "%s": tuple("text" if split[name].dtype.kind in "SU" else "numbers" for split in (train, held)),
        }.items():
            if one != other:
                raise DatasetError("%s has %s in %s, but %s has %s: make them the same"
                                   % (paths[0], what % (one,), name, paths[1], what % (other,)))  # fmt: skip


def _listed(names):
    names = list(names)
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (" and %d more" % more if more > 0 else "") or "nothing"
