"""What is said of the memory that a model takes, and of who has not got it."""

import re

import pytest

from flowerbed import memory
from flowerbed.rounds import needs

MB = 1_000_000


def test_what_a_round_takes_is_a_sentence():
    event = needs.of_a_round(300 * MB, "FedAvg", 3, "stream")
    assert event["message"] == (
        "the model has 300 MB: a round takes up to 1.2 GB of memory at the server, and 900 MB on a device, besides "
        "what training itself takes"
    )
    assert (event["server_bytes"], event["device_bytes"]) == (1200 * MB, 900 * MB)


def test_the_superlink_link_takes_more():
    event = needs.of_a_round(300 * MB, "FedAvg", 3, "superlink")
    assert (event["server_bytes"], event["device_bytes"]) == (3600 * MB, 2700 * MB)
    assert "takes 2.1 GB there" in needs.lacking("d1", {"client_memory_left": 2000 * MB}, 300 * MB, "superlink")


@pytest.mark.parametrize(
    ("about", "wanted"),
    [
        ({"memory_left": 900 * MB, "container_memory_left": 600 * MB, "client_memory_left": 300 * MB}, None),
        ({}, None),
        ({"memory_left": "all", "container_memory_left": None}, None),
        ({"memory_left": 899 * MB}, "d1 has 899 MB of memory left, but a model of 300 MB takes 900 MB there"),
        ({"memory_left": 900 * MB, "container_memory_left": 500 * MB}, "of d1's trainer has 500 MB.*trainer_memory"),
        ({"client_memory_left": 200 * MB}, "of d1's client has 200 MB .* takes 300 MB there.*client_memory"),
    ],
)
def test_a_device_that_lacks_memory_is_told_of(about, wanted):
    sentence = needs.lacking("d1", about, 300 * MB, "stream")
    assert sentence is wanted is None or re.search(wanted, sentence)


def test_a_server_that_lacks_memory_is_told_of(monkeypatch):
    machine, _ = memory.left()
    assert needs.lacking_at_the_server(1) is None
    assert "the server has" in needs.lacking_at_the_server(2 * machine + MB)
    monkeypatch.setattr(memory, "left", lambda: (None, None))
    assert needs.lacking_at_the_server(10**15) is None


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"memory.max": "1000000", "memory.current": "700000", "memory.stat": "inactive_file 100000"}, 400_000),
        ({"memory.max": "max", "memory.current": "700000", "memory.stat": ""}, None),
        ({"memory.limit_in_bytes": str(2**63 - 4096), "memory.usage_in_bytes": "1", "memory.stat": ""}, None),
        ({"memory.limit_in_bytes": "9000", "memory.usage_in_bytes": "9500", "memory.stat": ""}, 0),
        ({}, None),
    ],
)
def test_a_container_s_limit_is_read(files, wanted, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\nHugePages_Total:       0\n")
    real = memory._text

    def text(path):
        if path == "/proc/meminfo":
            return real(tmp_path / "meminfo")
        version = ".max" in path or ".current" in path or (".stat" in path and "memory/" not in path)
        there = path.rpartition("/")[2]
        return real(tmp_path / there) if version == ("memory.max" in files) else real("/nowhere")

    monkeypatch.setattr(memory, "_text", text)
    assert memory.left() == (5000 * 1024, wanted)
