"""Devices come and go, and those that stay keep their examples."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowerbed.dataset import DatasetError, config
from flowerbed.dataset.__main__ import make
from flowerbed.dataset.config import Config
from flowerbed.dataset.split import Share, Split, split

LABELS = np.repeat(np.arange(4), 50)
PARTITIONS = ["iid", "dirichlet", "sizes"]


def settings(devices: str, partition: str = "iid", **keys) -> Config:
    """Return a configuration for the devices `devices`, a letter each; those in capitals have more examples."""
    sizes = {device: 30 if device.isupper() else 20 for device in devices}
    return Config("folder", list(devices), "", partition=partition, **{"sizes": sizes} | keys)


def after(known: Split | None, devices: str, partition: str = "iid", labels: np.ndarray = LABELS, **keys) -> Split:
    """Return the split after a deployment to `devices`, as it is read again by the next one."""
    done = split(labels, "digits", settings(devices, partition, **keys), known)
    read = Split.load(done.dump())
    read.changes = done.changes
    return read


def same(one: Share, other: Share) -> bool:
    return all(np.array_equal(*parts) for parts in zip(one, other, strict=True))


def kept(before: Split, now: Split, devices: str) -> bool:
    return all(same(before.devices[device], now.devices[device]) for device in devices)


def check_apart(*splits: Split) -> None:
    """Check that no example is anybody's twice, and that none that was ever held out was ever trained on."""
    for each in splits:
        given = np.concatenate([part for share in [*each.devices.values(), *each.gone.values()] for part in share])
        assert len(np.unique(given)) == len(given)
    trained, held_out = (
        {index for each in splits for share in each.devices.values() for index in share[kind]} for kind in (0, 1)
    )
    assert not trained & held_out


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_device_that_goes_leaves_its_examples_and_the_others_keep_theirs(partition):
    first = after(None, "abcd", partition)
    assert list(first.devices) == list("abcd") and first.changes == [] and not first.gone
    then = after(first, "abd", partition)
    assert list(then.devices) == list("abd") and kept(first, then, "abd") and same(then.gone["c"], first.devices["c"])
    assert then.changes == [f"c went, and leaves {first.devices['c'].size} examples unused"]
    check_apart(first, then)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_one_that_comes_back_has_its_own_share_again(partition):
    first = after(None, "abcd", partition)
    gone = after(after(first, "abc", partition), "ab", partition)
    assert list(gone.gone) == ["d", "c"]
    back = after(gone, "abd", partition)
    assert kept(first, back, "abd") and back.changes == ["d has its own share again"]
    again = after(back, "abcd", partition)
    assert kept(first, again, "abcd") and not again.gone


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_one_that_is_replaced_hands_its_share_over(partition):
    first = after(None, "abcd", partition)
    then = after(first, "abed", partition)
    assert list(then.devices) == list("abed") and kept(first, then, "abd") and not then.gone
    assert same(then.devices["e"], first.devices["c"]) and then.changes[1:] == ["e takes over the share of c"]
    # One after the other is the same, and the last to go is the first to be replaced.
    one = after(after(after(first, "abc", partition), "ab", partition), "abe", partition)
    assert same(one.devices["e"], first.devices["c"]) and same(one.gone["d"], first.devices["d"])
    # The first to come back finds its own share, if another takes one at the same time.
    both = after(after(first, "ab", partition), "abed", partition)
    assert same(both.devices["d"], first.devices["d"]) and same(both.devices["e"], first.devices["c"])


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_where_nothing_is_left_each_of_the_others_gives_an_equal_part(partition):
    first = after(None, "abc", partition)
    then = after(first, "abcd", partition)
    assert then.changes == [f"each of the others gives d a part of its share, {then.devices['d'].size} examples in all"]
    for device in "abc":
        for part, before in zip(then.devices[device], first.devices[device], strict=True):
            assert 0 <= len(before) // 4 <= len(before) - len(part) <= len(before) // 4 + 1
            assert np.array_equal(part, before[: len(part)])
    for kind in (0, 1):
        assert len(then.devices["d"][kind]) == sum(len(share[kind]) for share in first.devices.values()) // 4
    twice = after(then, "abcde", partition)
    at_once = after(first, "abcde", partition)
    assert kept(twice, at_once, "abcde") and len(at_once.changes) == 2
    check_apart(first, then, twice)


def test_shares_stay_equal_where_they_were():
    grown = after(after(after(None, "abc"), "abcd"), "abcdef")
    assert {share.size for share in grown.devices.values()} <= {32, 33, 34, 35}
    assert {len(share.heldout) for share in grown.devices.values()} <= {3, 4, 5}


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_some_take_over_and_others_give_only_what_is_lacking(partition):
    first = after(None, "abc", partition)
    then = after(first, "abde", partition)
    assert [words.split(" ")[0] for words in then.changes] == ["c", "d", "each"]
    assert same(
        then.devices["d"],
        Share(*(part[: len(kept)] for part, kept in zip(first.devices["c"], then.devices["d"], strict=True))),
    )
    check_apart(first, then)


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_a_whole_fleet_can_be_replaced(partition):
    first = after(None, "abc", partition)
    then = after(first, "xyz", partition)
    assert {hashlib.sha256(np.concatenate(s)).hexdigest() for s in first.devices.values()} == {
        hashlib.sha256(np.concatenate(s)).hexdigest() for s in then.devices.values()
    }


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_deployment_to_some_gives_them_only_what_is_left(partition):
    """b and e are new; only e is deployed to, and b has no share before it is."""
    first = after(None, "acd", partition)
    gone = after(first, "ac", partition, only=["a"])
    then = after(gone, "abce", partition, only=["e"])
    assert list(then.devices) == list("ace") and kept(first, then, "ac")
    if partition == "sizes":
        assert then.devices["e"].size == 20
        return
    assert same(then.devices["e"], first.devices["d"])
    assert list(after(then, "abce", partition, only=[]).devices) == list("ace")
    with pytest.raises(DatasetError, match="no share of folder is left for b: deploy to all devices, without --limit"):
        after(then, "abce", partition, only=["b"])
    assert list(after(then, "abce", partition).devices) == list("abce")


def test_a_first_deployment_to_some_splits_among_all():
    assert list(after(None, "abc", only=["a"]).devices) == list("abc")


def test_under_sizes_one_that_comes_gets_what_nobody_had_then_what_is_left():
    first = after(None, "abcdeF", "sizes")
    free = set(range(200)) - {index for share in first.devices.values() for part in share for index in part}
    assert len(free) == 70
    then = after(first, "abcdeFG", "sizes")
    assert kept(first, then, "abcdeF") and {*np.concatenate(then.devices["G"])} <= free
    assert [len(part) for part in then.devices["G"]] == [27, 3] and then.changes[0].startswith("G gets 30 examples")
    more = after(after(then, "abcdeFGH", "sizes"), "cdeFGHIj", "sizes")  # a and b went, with 40; 10 are free
    assert kept(then, more, "cdeFG") and [len(part) for part in more.devices["I"]] == [27, 3]
    assert not {*np.concatenate(more.devices["I"])} & {*np.concatenate(more.devices["j"])}
    check_apart(first, then, more)
    sentence = r"dataset_size of k is 20, but only 0 examples are left that no other device has: lower it"
    with pytest.raises(DatasetError, match=sentence):
        after(more, "cdeFGHIjk", "sizes")


def test_one_that_comes_back_with_another_size_gets_as_many():
    first = after(None, "ab", "sizes")
    then = after(after(first, "a", "sizes"), "ab", "sizes", sizes={"a": 20, "b": 25})
    assert then.devices["b"].size == 25 and kept(first, then, "a")


def test_another_size_of_one_that_stays_makes_a_new_split():
    first = after(None, "ab", "sizes")
    assert after(first, "ab", "sizes", sizes={"a": 21, "b": 20}).first == "" == first.first
    first.first = "abc"
    assert after(first, "ab", "sizes").first == "abc"
    assert after(first, "ab", "sizes", sizes={"a": 21, "b": 20}).first == ""


def test_nobody_gives_its_last_example():
    labels = np.zeros(6, np.int64)
    first = after(None, "abc", labels=labels)  # one to train on and one held out each
    with pytest.raises(DatasetError, match="the other devices have too few examples to give d any: use a larger set"):
        after(first, "abcd", labels=labels)
    one = after(None, "a", labels=labels, heldout=0)
    three = after(one, "abc", labels=labels, heldout=0)
    assert [share.size for share in three.devices.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"of": 1}', b'{"of": 1, "first": "", "devices": 5}', b"\xff"]
)
def test_a_damaged_record_is_none(content):
    assert Split.load(content) is None


# -- The command ------------------------------------------------------------------------------------------------------


def deploy(tmp_path: Path, devices: str, **keys) -> dict:
    keys = {"name": "digits", "devices": list(devices), "output": str(tmp_path / "shards")} | keys
    (tmp_path / "dataset.json").write_text(json.dumps(keys))
    return make(config.read(str(tmp_path / "dataset.json")))


def files(tmp_path: Path, device: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "shards" / device).iterdir()}


def test_the_files_of_those_who_stay_are_the_same_bit_for_bit(tmp_path):
    first = deploy(tmp_path, "abc")
    before = {device: files(tmp_path, device) for device in "abc"}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards/a").iterdir()}
    then = deploy(tmp_path, "ad")
    assert then["changes"] == [
        *(f"{device} went, and leaves 479 examples unused" for device in "bc"),
        "d takes over the share of c",
    ]
    assert files(tmp_path, "a") == before["a"] and files(tmp_path, "d") == before["c"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards/a").iterdir()} == times
    assert not (tmp_path / "shards/b").exists() and then["changed"]
    assert then["manifest"]["split"] == first["manifest"]["split"] == first["manifest"]["fingerprint"]
    assert then["manifest"]["fingerprint"] != first["manifest"]["fingerprint"]
    assert deploy(tmp_path, "ad") == {"changed": False, "manifest": then["manifest"]}
    assert deploy(tmp_path, "abd")["changes"] == ["b has its own share again"] and files(tmp_path, "b") == before["b"]


def test_a_deployment_to_some_makes_nothing_anew(tmp_path):
    deploy(tmp_path, "abc")
    deploy(tmp_path, "ab")
    then = deploy(tmp_path, "abde", only=["d"])
    assert list(then["manifest"]["devices"]) == list("abd") and "e" not in then["manifest"]["fingerprints"]
    for only in (["d"], ["a"], []):
        assert deploy(tmp_path, "abde", only=only) == {"changed": False, "manifest": then["manifest"]}
    assert list(deploy(tmp_path, "abde")["manifest"]["devices"]) == list("abde")


@pytest.mark.parametrize("keys", [{"seed": 1}, {"heldout": 0.2}, {"test": 0.1}, {"partition": "dirichlet"}])
def test_another_way_to_split_makes_a_new_split(tmp_path, keys):
    deploy(tmp_path, "abc")
    first = deploy(tmp_path, "ab")
    (tmp_path / "other").mkdir()
    fresh = deploy(tmp_path / "other", "ab", **keys)
    then = deploy(tmp_path, "ab", **keys)
    assert then == fresh and then["manifest"]["split"] != first["manifest"]["split"]


def test_shares_that_are_lost_are_split_anew(tmp_path):
    first = deploy(tmp_path, "abc")
    (tmp_path / "shards/shares.json").unlink()
    assert deploy(tmp_path, "abc") == {"changed": True, "manifest": first["manifest"]}


def test_one_that_gets_none_that_others_held_out_is_a_warning(tmp_path):
    """Of two shares of one held-out example each, none can be given."""
    for number in range(16):
        (tmp_path / f"pets/{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), number).save(tmp_path / f"pets/{number % 2}/{number}.png")
    keys = {"name": "folder", "path": "pets", "test": 0}
    assert deploy(tmp_path, "ab", **keys)["manifest"]["warnings"] == []
    manifest = deploy(tmp_path, "abc", **keys)["manifest"]
    assert manifest["devices"]["c"]["heldout"] == 0
    assert manifest["warnings"] == ["c got none that others held out, so it holds none out"]
