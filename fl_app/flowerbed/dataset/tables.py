"""Files of columns: CSV as spreadsheets, loggers and pandas write it, and Parquet where pyarrow is installed."""

import codecs
import csv
import io
import itertools
import os
import re
import warnings

import numpy as np

from flowerbed.dataset import DatasetError, DatasetWarning, files

SEPARATORS = (";", "\t", ",")  # the first that the first line has: with ";" or a tab, "," may be the decimal mark
EMPTY = (b"", b"NA", b"N/A", b"n/a", b"nan", b"NaN", b"NAN", b"null", b"NULL", b"None")  # cells
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
BLOCK = 4096  # rows that are read before they become arrays
NUMBER_BYTES = 8
PYARROW = (14, 0, 1)  # earlier ones run code that a file brings


def read_csv(path, choose, limit):
    """Return columns of a CSV file by name: int64, float64 (NaN where a cell is empty) or text. Raises DatasetError.

    `choose` is given the names of all columns, and returns those to read; `limit` is in MiB. Columns that have no name
    in a line of names are left out.
    """
    with files.open_regular(path) as file:
        files.check(os.fstat(file.fileno()).st_size, path, limit)
        utf16 = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        lines = io.TextIOWrapper(file, "utf-16" if utf16 else "utf-8-sig", newline="")
        try:
            return _csv(path, lines, choose, limit)
        except UnicodeError as error:
            raise DatasetError("%s is not text in UTF-8: save it as UTF-8 (iconv converts it)" % path) from error


def _csv(path, lines, choose, limit):
    separator, lines = _separator(lines)
    rows = _rows(path, csv.reader(lines, delimiter=separator, skipinitialspace=True))
    comma = separator != ","
    first = list(itertools.islice(rows, 2))
    if not first:
        raise DatasetError("%s holds no examples" % path)
    if _is_header([cells for _, cells in first], comma):
        names = [first[0][1][0].lstrip("# ")] + first[0][1][1:]  # numpy's savetxt makes the line a comment
        del first[0]
    else:
        names = [str(number) for number in range(len(first[0][1]))]
    places = {}
    for place, name in enumerate(names):
        if name and places.setdefault(name, place) != place:
            raise DatasetError("%s has two columns called %s: rename one" % (path, name))
    chosen = {name: places[name] for name in choose(places)}
    numbers, blocks = _blocks(path, itertools.chain(first, rows), chosen, limit)
    columns, empty = {}, {}
    for name in chosen:
        where = "column %s of %s" % (name, path)
        columns[name], empty[name] = _column(blocks.pop(name), numbers, where, comma, limit)
    _warn_of_empty(path, empty)
    return columns


def _separator(lines):
    """Return what separates cells in the first line that is not blank, and all lines again."""
    begin = []
    for line in lines:
        begin.append(line)
        if line.strip():
            break
    counts = {mark: len(next(csv.reader(begin[-1:], delimiter=mark), [])) for mark in SEPARATORS}
    return next((mark for mark in SEPARATORS if counts[mark] > 1), ","), itertools.chain(begin, lines)


def _rows(path, reader):
    """Yield the number of a row's last line, and its cells, without those rows that are blank."""
    first = None
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            first = first or (reader.line_num, len(cells))
            if len(cells) != first[1]:
                raise DatasetError("line %d of %s has %d cells, but line %d has %d: mend or remove the wrong one"
                                   % (reader.line_num, path, len(cells), first[0], first[1]))  # fmt: skip
            yield reader.line_num, cells
    except csv.Error as error:
        raise DatasetError("line %d of %s cannot be read (%s): mend it, or remove it"
                           % (reader.line_num, path, error)) from error  # fmt: skip


def _is_number(cell, comma):
    return NUMBER.fullmatch(cell.replace(",", ".", 1) if comma else cell) is not None


def _is_header(rows, comma):
    """Return whether the first of two rows names the columns: it has no numbers, or text above a number."""
    kinds = [[_is_number(cell, comma) for cell in row] for row in rows]
    above_numbers = [cell for cell, number in zip(rows[0], kinds[-1]) if number]
    return not any(kinds[0]) or any(cell and not _is_number(cell, comma) for cell in above_numbers)


def _blocks(path, rows, chosen, limit):
    """Return the rows' line numbers, and by column the cells: arrays of UTF-8, which are smaller than text."""
    lines, blocks, total = [np.empty(0, np.int64)], {name: [] for name in chosen}, 0
    for block in iter(lambda: list(itertools.islice(rows, BLOCK)), []):
        lines.append(np.array([line for line, _ in block], np.int64))
        for name, place in chosen.items():
            cells = [row[place].encode("utf-8") for _, row in block]
            total += len(cells) * max(NUMBER_BYTES, *map(len, cells))
            files.check(total, path, limit)
            blocks[name].append(np.array(cells))
    return np.concatenate(lines), blocks


def _column(blocks, lines, where, comma, limit):
    """Return the values of a column's cells, and how many are NaN because they are empty."""
    files.check(max((block.itemsize for block in blocks), default=0) * len(lines), where, limit)
    cells = np.concatenate(blocks) if blocks else np.empty(0, "S1")
    filled = ~np.isin(cells, EMPTY)
    numbers = _numbers(cells[filled], comma)
    if numbers is None:
        _check_text(cells[filled], lines[filled], where, comma)
        files.check(4 * cells.nbytes, where, limit)
        return np.char.decode(cells, "utf-8"), 0
    if filled.all():
        return numbers, 0
    values = np.full(len(cells), np.nan)
    values[filled] = numbers
    return values, len(cells) - len(numbers)


def _numbers(cells, comma):
    """Return cells as int64 or float64, or None if they are text."""
    content = cells.tobytes()
    if b"_" in content:  # Python's own numbers may have it
        return None
    if comma and b"," in content and b"." not in content:
        cells = np.char.replace(cells, b",", b".")
    for kind in (np.int64, np.float64):
        try:
            return cells.astype(kind)
        except (ValueError, OverflowError):
            pass
    return None


def _check_text(cells, lines, where, comma):
    """Raise DatasetError for a column of numbers among which something else stands."""
    others = [place for place, cell in enumerate(cells.tolist()) if not _is_number(cell.decode("utf-8"), comma)]
    if not others:
        raise DatasetError("%s has numbers with a decimal point and with a comma: write all with a point" % where)
    if 2 * len(others) < len(cells):
        cell = cells[others[0]].decode("utf-8")
        raise DatasetError("%s has %s in line %d, where most are numbers: correct it or empty it, or name the columns "
                           "to read without this one" % (where, cell, lines[others[0]]))  # fmt: skip


def _warn_of_empty(path, counts):
    """Warn of empty cells, given their number by column."""
    text = ", ".join("%d in %s" % (count, name) for name, count in counts.items() if count)
    if text:
        warnings.warn(DatasetWarning("%s has empty cells, which are NaN: %s" % (path, text)), stacklevel=2)


def read_parquet(path, choose, limit):
    """Return columns of a Parquet file by name: numbers, times, text, or lists of one length. Raises DatasetError.

    `choose` is given the names of all columns, and returns those to read; `limit` is in MiB.
    """
    pyarrow = _pyarrow(path)
    try:
        with files.open_regular(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            names, total = choose(table.schema_arrow.names), 0
            schema = pyarrow.schema([table.schema_arrow.field(name) for name in names])
            batches = []
            for batch in table.iter_batches(BLOCK, columns=names):
                total += batch.nbytes
                files.check(total, path, limit)
                batches.append(batch.select(names))
            whole = pyarrow.Table.from_batches(batches, schema)
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # a damaged one raises many kinds
        raise DatasetError("%s is not a whole .parquet file (%s)" % (path, files.reason(error))) from error
    columns = {name: _values(pyarrow, whole.column(name), "column %s of %s" % (name, path), limit) for name in names}
    _warn_of_empty(path, {name: whole.column(name).null_count for name in names if columns[name].dtype.kind == "f"})
    return columns


def _pyarrow(path):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError("%s is read by pyarrow only, which is not installed there: install it, or save the data as "
                           ".npz or .csv" % path) from error  # fmt: skip
    if tuple(map(int, re.findall(r"\d+", pyarrow.__version__)[:3])) < PYARROW:
        raise DatasetError("%s needs pyarrow %s or newer, as those before run code that a file brings, but has %s: "
                           "install it, or save the data as .npz or .csv"
                           % (path, ".".join(map(str, PYARROW)), pyarrow.__version__))  # fmt: skip
    return pyarrow


def _values(pyarrow, column, where, limit):
    """Return a column of Arrow's as an array."""
    types = pyarrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_string(column.type) or types.is_large_string(column.type):
        texts = [text or "" for text in column.to_pylist()]
        files.check(4 * len(texts) * max(map(len, texts), default=0), where, limit)
        return np.array(texts, "U")
    if types.is_boolean(column.type) and column.null_count:
        column = column.cast("int8")
    if types.is_primitive(column.type):
        return column.to_numpy()
    if types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        lists = column.combine_chunks()
        lengths = set(pyarrow.compute.list_value_length(lists).to_pylist())
        if len(lengths) == 1 and None not in lengths:
            values = _values(pyarrow, pyarrow.chunked_array([lists.flatten()]), where, limit)
            return values.reshape((len(lists), lengths.pop()) + values.shape[1:])
        raise DatasetError("%s has lists of unequal lengths: make them one length, or name the columns to read without "
                           "this one" % where)  # fmt: skip
    raise DatasetError("%s has %s, which is no number, text or list of one length: name the columns to read without "
                       "this one" % (where, column.type))  # fmt: skip
