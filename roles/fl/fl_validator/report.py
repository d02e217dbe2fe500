"""Problems as sentences: the same problem of several hosts is one sentence that names them."""

import os
from collections.abc import Iterable, Sequence

from .fleet import Fleet, Problem, Source


def listed(items: Iterable[object], joint: str = "and", limit: int = 3) -> str:
    """Return `items` as words, 'a, b and c'; beyond `limit` of them, how many more there are."""
    words = [str(item) for item in items]
    if len(words) > limit + 1:
        words = [*words[:limit], f"{len(words) - limit} more"]
    return f" {joint} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def shown(path: str) -> str:
    """Return a path the way its user would write it: relative if it lies below the working directory."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def sentences(problems: Sequence[Problem], fleet: Fleet) -> list[str]:
    """Return a sentence for each different problem, naming its hosts, its variable and the file that sets it."""
    merged: dict[tuple[object, ...], tuple[list[str], list[Source]]] = {}
    for host, variable, text in problems:
        source = fleet.source(host, variable) if variable else Source()
        key = (variable, text, source.file, source.command_line)
        hosts, sources = merged.setdefault(key, ([], []))
        if host is not None and host not in hosts and not source.command_line:
            hosts.append(host)
        sources.append(source)
    return [
        _sentence(hosts, variable, text, sources, variable in fleet.options)
        for (variable, text, *_), (hosts, sources) in merged.items()
    ]


def _sentence(hosts: list[str], variable: str | None, text: str, sources: list[Source], has_default: bool) -> str:
    source, lines = sources[0], {source.line for source in sources}
    if source.file:
        line = f":{source.line}" if lines == {source.line} and source.line else ""
        place = f" in {shown(source.file)}{line}"
    else:
        place = " on the command line" if source.command_line else " (its default)" if has_default else ""
    subject = f"{listed(hosts)}: " if hosts and variable else f"{listed(hosts)} " if hosts else ""
    sentence = f"{subject}{variable}{place} {text}" if variable else subject + text
    return sentence if sentence.endswith(("?", ".")) else sentence + "."
