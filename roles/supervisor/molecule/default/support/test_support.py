"""What playbooks/support.yml leaves."""

import tarfile


def test_the_bundle_has_files_of_every_host(folder):
    (bundle,) = (folder / "runs/molecule/support").iterdir()
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"server/logs/server.log", "server/experiment/metrics.jsonl", "rpi-1/logs/client.log",
            "jetson-4gb-1/trainer_status.txt"} <= names  # fmt: skip
