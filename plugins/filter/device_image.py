"""Which images a device lacks, and who gives them to whom where no mirror can."""

from __future__ import annotations

import re
from typing import Any

NAME = re.compile(
    r"(?P<repository>(?:(?:localhost|[\w-]+(?:\.[\w-]+)+)(?::\d+)?/|[\w-]+:\d+/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?P<tag>:\w[\w.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)


def wrong(names: list[str]) -> list[str]:
    """Return those of `names` that Docker would not take for an image's."""
    return [name for name in names if not NAME.fullmatch(str(name))]


def familiar(name: str) -> str:
    """Return an image's name as Docker lists it: with its digest or else its tag. What is no name stays as it is."""
    match = NAME.fullmatch(str(name))
    if not match:
        return str(name)
    repository = match["repository"].removeprefix("docker.io/").removeprefix("library/")
    return repository + (match["digest"] or match["tag"] or ":latest")


def is_public(name: str) -> bool:
    """Whether an image is in the public registry, the only one whose mirrors an engine asks."""
    host, slash, _ = familiar(name).partition("/")
    return not (slash and re.search(r"[.:]|^localhost$", host))


def missing(names: list[str], images: dict[str, str]) -> list[str]:
    """Return those of `names` that are not among an engine's images."""
    return [name for name in dict.fromkeys(map(familiar, names)) if name not in images]


def shares(
    hostvars: Any, hosts: list[str], mirrored: bool, known: dict[str, dict[str, list[str]]] | None = None
) -> list[dict[str, Any]]:
    """Return who of `hosts` gives which image to whom: `image`, `giver`, `takers`, and `ids` that it may have.

    One that has an image gives it, else the first that lacks it, which pulls it before. What a mirror has is not
    shared, and only devices with the same processor share. With `known`, the ids of images by name and processor (""
    for all), no other image is shared.
    """
    result = []
    machine = {host: hostvars[host]["board_found"]["machine"] for host in hosts}
    images = {host: hostvars[host]["board_found"].get("docker", {}).get("images", {}) for host in hosts}
    lacking = {host: hostvars[host].get("device_image_lacking", []) for host in hosts}
    for name, kind in sorted({(name, machine[host]) for host in hosts for name in lacking[host]}):
        alike = [host for host in hosts if machine[host] == kind]
        takers = [host for host in alike if name in lacking[host]]
        ids = None if known is None else known.get(name, {}).get(kind) or known.get(name, {}).get("") or []
        having = [host for host in alike if name in images[host]]
        if ids is not None:  # an engine may also go by the digest that the registry has for an image
            having = [host for host in having if images[host][name] in ids]
        giver = next(iter(having), takers[0])
        takers = [host for host in takers if host != giver]
        if takers and not (mirrored and is_public(name)) and ids != []:
            result.append({"image": name, "giver": giver, "takers": takers, "ids": ids})
    return result


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "device_image_name": familiar, "device_image_wrong": wrong, "device_image_missing": missing,
            "device_image_shares": shares,
        }  # fmt: skip
