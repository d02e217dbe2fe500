"""What a large model takes at its peak, at the server and in a device's trainer, on real processes."""

from pathlib import Path

import pytest

from fleet import APP, Fleet

TASK = APP.parent / "benchmarks" / "noop_task.py"
SECONDS = 600


def peak(process) -> float:
    """Return the peak of a process's resident memory in MB: since its start, or since its trainer last trained."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("megabytes", "count", "devices", "server", "trainer"),
    [
        (60, 1, 2, 150 + 3 * 60, 350 + 2 * 60),
        pytest.param(300, 1, 3, 1600, 1000, marks=pytest.mark.long),
        pytest.param(300, 250, 3, 1600, 1000, marks=pytest.mark.long),
    ],
)
def test_a_large_model_takes_little_more_than_its_updates(tmp_path, megabytes, count, devices, server, trainer):
    fleet = Fleet(tmp_path, [20] * devices, TASK, patience=SECONDS)
    try:
        config = {"megabytes": megabytes, "tensors": count}
        status, words = fleet.run("large", rounds=2, config=config, wait_clients=60, round_timeout=SECONDS)
        assert status == 0, words
        [said] = fleet.events("large", "memory")
        assert said["model_bytes"] // 10**6 == megabytes and f"{megabytes} MB" in said["message"]
        assert peak(fleet.processes["server", "server"]) < server
        trained = [event for event in fleet.events("large", "device") if event["status"] == "ok"]
        assert len(trained) == 2 * devices
        assert max(event["peak_memory_bytes"] for event in trained) / 1e6 < trainer
        for name in fleet.devices:
            assert peak(fleet.processes[name, "trainer"]) < trainer
    finally:
        fleet.stop()
