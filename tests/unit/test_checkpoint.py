"""A checkpoint's file: all of it or none, and the newest whole one is found."""

import contextlib
import json
import os
import resource
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from disk import full_disk
from flowerbed import tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds.checkpoint import Checkpoint
from flowerbed.rounds.files import write_atomically


def made(number: int, size: int = 50) -> Checkpoint:
    model = {"layer/weight": np.full(size, number, np.float32), "counter": np.array(number + 0.5)}
    return Checkpoint(
        number, model, {"m_t/layer/weight": np.ones(3)}, '{"m_t": "dict"}', [{"event": "round", "round": number}]
    )


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Limit the size of the files this process writes, pytest's own output too: beyond it, the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_loaded(tmp_path):
    checkpoints.save(tmp_path, made(3))
    found = checkpoints.load(checkpoints.path_of(tmp_path, 3))
    wanted = made(3)
    assert (found.round, found.memory_rest, found.events) == (3, wanted.memory_rest, wanted.events)
    for part in ("model", "memory"):
        assert getattr(found, part).keys() == getattr(wanted, part).keys()
        for name, array in getattr(wanted, part).items():
            np.testing.assert_array_equal(getattr(found, part)[name], array)
            assert getattr(found, part)[name].dtype == array.dtype


def test_the_newest_is_found_beside_others_files(tmp_path):
    for number in (9, 10, 2):
        checkpoints.save(tmp_path, made(number))
    for other in ("round-00011.safetensors.old", "round-latest.safetensors", ".round-00012.safetensors.partial"):
        (tmp_path / other).write_bytes(b"")
    found, problems = checkpoints.newest(tmp_path)
    assert (found.round, problems) == (10, [])


def test_rounds_are_ordered_as_numbers(tmp_path):
    for number in (99_999, 100_000):
        checkpoints.save(tmp_path, made(number))
    assert checkpoints.newest(tmp_path)[0].round == 100_000


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert checkpoints.newest(tmp_path / "missing") == (None, [])


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "model.safetensors"
    write_atomically(path, [b"old" * 100])
    with file_limit(1000), pytest.raises(OSError):
        write_atomically(path, [b"new" * 1000])
    assert path.read_bytes() == b"old" * 100
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_save_that_fails_leaves_the_round_before(tmp_path):
    checkpoints.save(tmp_path, made(1))
    with file_limit(2000), pytest.raises(OSError):
        checkpoints.save(tmp_path, made(2, size=5000))
    found, problems = checkpoints.newest(tmp_path)
    assert (found.round, problems) == (1, [])
    assert os.listdir(tmp_path) == ["round-00001.safetensors"]


DAMAGED = {
    "empty": b"", "junk": b"junk", "nothing": tensors.pack({}), "a list": tensors.pack({}, {"flowerbed": "[]"}),
    "no round": tensors.pack({}, {"flowerbed": "{}"}), "null": tensors.pack({}, {"flowerbed": "null"}),
    "a round alone": tensors.pack({}, {"flowerbed": json.dumps({"round": 2})}),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_is_wrong_with_the_newest_the_one_before_is_used(tmp_path, name):
    checkpoints.save(tmp_path, made(1))
    checkpoints.path_of(tmp_path, 2).write_bytes(DAMAGED[name])
    found, [problem] = checkpoints.newest(tmp_path)
    assert found.round == 1
    assert "round-00002.safetensors cannot be read" in problem


def same(one: Checkpoint, other: Checkpoint) -> bool:
    arrays = [(one.model, other.model), (one.memory, other.memory)]
    rest = [(item.round, item.memory_rest, item.events) for item in (one, other)]
    return rest[0] == rest[1] and all(
        left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
        for left, right in arrays
    )


def test_random_damage_is_found_wherever_it_is(tmp_path):
    checkpoints.save(tmp_path, made(1))
    checkpoints.save(tmp_path, made(2))
    path = checkpoints.path_of(tmp_path, 2)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for place in random.integers(0, len(damaged), 2):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        found, problems = checkpoints.newest(tmp_path)
        assert same(found, made(2)) if not problems else same(found, made(1))


def test_any_altered_byte_of_the_tensors_is_found(tmp_path):
    checkpoints.save(tmp_path, made(1, size=5))
    checkpoints.save(tmp_path, made(2, size=5))
    path = checkpoints.path_of(tmp_path, 2)
    whole = path.read_bytes()
    for place in range(len(whole) - 52, len(whole)):  # 3 and 1 float64, 5 float32
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found, [problem] = checkpoints.newest(tmp_path)
        assert found.round == 1
        assert problem.endswith(
            "cannot be read (it is damaged: its checksum is another): the run goes on after round 1"
        )


def test_a_checkpoint_of_before_there_were_checksums_is_read(tmp_path):
    about = {"round": 4, "memory": "{}", "events": [{"event": "round", "round": 4}]}
    data = tensors.pack({"model/w": np.ones(3)}, {"flowerbed": json.dumps(about)})
    checkpoints.path_of(tmp_path, 4).write_bytes(data)
    found, problems = checkpoints.newest(tmp_path)
    assert (found.round, found.events, problems) == (4, about["events"], [])


def test_a_checkpoint_under_another_round_s_name_is_none(tmp_path):
    checkpoints.save(tmp_path, made(1))
    checkpoints.path_of(tmp_path, 7).write_bytes(checkpoints.path_of(tmp_path, 1).read_bytes())
    found, [problem] = checkpoints.newest(tmp_path)
    assert found.round == 1 and "round-00007.safetensors cannot be read (it is of round 1)" in problem


def test_old_checkpoints_are_pruned_but_the_best_later_ones_and_what_is_not_ours(tmp_path):
    for number in range(1, 10):
        checkpoints.save(tmp_path, made(number))
    theirs = {"round-00001.safetensors.old", "round-3.safetensors", "round-00000.safetensors", "notes"}
    for name in theirs:
        (tmp_path / name).write_bytes(tensors.pack({"w": np.ones(2)}))
    checkpoints.prune(tmp_path, 8, 3, 2)
    assert set(os.listdir(tmp_path)) == theirs | {f"round-0000{number}.safetensors" for number in (2, 6, 7, 8, 9)}


def test_a_checkpoint_that_cannot_be_removed_is_no_reason_to_end_a_run(tmp_path):
    with full_disk(tmp_path, 1_000_000) as disk:
        for number in (1, 2, 3):
            checkpoints.save(disk, made(number))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        checkpoints.prune(disk, 3, 1, None)
        assert len(os.listdir(disk)) == 3
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        checkpoints.prune(disk, 3, 1, None)
        assert os.listdir(disk) == ["round-00003.safetensors"]
