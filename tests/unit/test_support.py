"""A support bundle: secrets are taken out, sizes are bounded, and the likely lines come first."""

import importlib.util
import json
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plugins/plugin_utils"))

from support import bundle, likely, secrets  # noqa: E402
from support.likely import Collected  # noqa: E402

spec = importlib.util.spec_from_file_location("support_files", ROOT / "plugins/modules/support_files.py")
support_files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(support_files)

NOW = 1_764_000_000.0
KEY = "".join(f"MIGkPLANTED{line:02d}AgEBBDB8Vq3eN0qk+Zw/7T2pPLANTEDxkYl4\n" for line in range(6))
PLANTED = [
    f"-----BEGIN PRIVATE KEY-----\n{KEY}-----END PRIVATE KEY-----\n",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{KEY}",
    f"{KEY}-----END EC PRIVATE KEY-----\n",
    json.dumps({"pem": f"-----BEGIN PRIVATE KEY-----\n{KEY}-----END PRIVATE KEY-----"}),
    json.dumps(f"{KEY}-----END PRIVATE KEY-----"),
    "http_proxy=http://flora:PLANTED1@proxy.lab:3128/ is used",
    "cloning https://PLANTED2@git.lab/x.git",
    "ansible_become_password: PLANTED3",
    'WANDB_API_KEY="PLANTED4 with blanks"',
    "{'password': 'PLANTED5', 'user': 'pi'}",
    '{"hub_token": "PLANTED6", "n": 1}',
    "Authorization: Bearer PLANTED7abcdefgh",
    "curl -H 'X: Bearer PLANTED8abcdefgh'",
    "login --password PLANTED9 --user pi",
    "token ghp_PLANTEDabcdefghijklmnopqrst was refused",
    "eyJPLANTEDabc.eyJzdWIiOiJQTEFO.PLANTEDxyz",
    "it said correct-horse-PLANTED, twice",
    'in JSON: "quote\\"PLANTED"',
    "in an address: a%2FPLANTED",
    "SHORT=ab",
    "'SHORT': 'ab'",
]
CLEANER = secrets.Cleaner(["correct-horse-PLANTED", 'quote"PLANTED', "a/PLANTED", "ab", "true"], ["SHORT"])


@pytest.mark.parametrize("text", PLANTED)
def test_a_secret_is_taken_out_and_what_stands_around_it_stays(text):
    cleaned = CLEANER.clean(f"before it\n{text}\nafter it")
    assert "PLANTED" not in cleaned and "ab'" not in cleaned and "=ab" not in cleaned, cleaned
    assert cleaned.startswith("before it\n") and secrets.REMOVED in cleaned
    assert cleaned.endswith("\nafter it") or "BEGIN" in text


@pytest.mark.parametrize("text", [
    "rpi-1 refuses the password for sudo: give it with -K", "true, and a cable", "KeyError: 'token'",
    "the tokens of a batch: 512", "d" * 64, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "connects to https://hub.lab/ at 10.0.0.1:9092",
])  # fmt: skip
def test_other_words_stay(text):
    assert CLEANER.clean(text) == text


def test_no_text_takes_long():
    began = time.process_time()
    for part in ("A" * 100_000, "A/+=" * 50_000, "password" * 20_000, "://" * 60_000, "eyJ" * 60_000, '"\\' * 60_000,
                 "-----END PRIVATE KEY-----" * 5_000, "A\n" * 100_000 + "-----END PRIVATE KEY-----"):  # fmt: skip
        CLEANER.clean(part)
    assert time.process_time() - began < 60


def test_what_is_named_as_a_secret_is_found_in_variables():
    given = {"fl_config": {"hub_token": "a", "more": [{"password": "b"}, {"size": "c"}]}, "ansible_password": "d",
             "proxy_credentials": {"user": "e"}, "fl_root": "f", "token_count": "g"}  # fmt: skip
    assert [each for name, value in given.items() for each in secrets.values(name, value)] == ["a", "b", "d", "e"]
    assert list(secrets.of_addresses(["http://flora:p%40ss@proxy:3128", "no"])) == ["flora:p%40ss", "p@ss"]


# -- The archive ------------------------------------------------------------------------------------------------------


def written(path):
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read().decode() for entry in archive.getmembers()}


def test_no_planted_secret_is_in_the_archive_and_its_user_alone_reads_it(tmp_path):
    files = {f"logs/{number}.log": f"a line\n{text}" for number, text in enumerate(PLANTED)}
    old = os.umask(0)
    try:
        path = bundle.write(tmp_path / "support", {"rpi-1": Collected(files)}, PLANTED[0], CLEANER, NOW)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600 and len(written(path)) == len(PLANTED) + 1
    found = {name: text for name, text in written(path).items() if "PLANTED" in text}
    assert found == {} and "a line" in written(path)[f"{path.name[:-7]}/rpi-1/logs/0.log"]


def test_the_archive_is_bounded_leads_nowhere_and_the_latest_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "ALL_BYTES", 100)
    other = tmp_path / "notes.txt"
    other.touch()
    for number in range(bundle.KEPT + 2):
        path = bundle.write(tmp_path, {"a": Collected({"../../x.log": "y" * 80, "z.log": "z" * 80})}, "s" * 10,
                            CLEANER, NOW + number)  # fmt: skip
    texts = {name.partition("/")[2]: text for name, text in written(path).items()}
    assert texts == {"summary.txt": "s" * 10, "a/x.log": "y" * 80, "a/z.log": "z" * 10}
    assert len(list(tmp_path.glob("support-*"))) == bundle.KEPT and path.exists() and other.exists()


def test_of_a_file_the_end_is_taken_and_no_link(tmp_path):
    (tmp_path / "long.log").write_bytes(b"first line\nsecond \xff line\nthird line\n")
    with open(tmp_path / "long.log", "rb") as file:
        assert support_files.end_of(file, 100) == ("first line\nsecond � line\nthird line\n", False)
        assert support_files.end_of(file, 15) == ("third line\n", True)
        assert support_files.end_of(file, 0) == ("", True)


def test_what_a_command_says_is_bounded_in_length_and_time():
    assert support_files.said(["sh", "-c", "echo one; echo two >&2"], 10, 100) == ("one\ntwo\n", False)
    assert support_files.said(["sh", "-c", "seq 99; exit 3"], 10, 7) == ("98\n99\n(it ended with status 3)\n", True)
    assert support_files.said(["sleep", "60"], 0.1, 9)[0] == "(it took longer than 0 s)\n"
    assert support_files.said(["/nowhere/program"], 1, 9)[0].startswith("(it cannot be run: ")


# -- What is likely ---------------------------------------------------------------------------------------------------


def stamp(seconds, zone=""):
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(NOW + seconds)) + (zone or ",123")


TRACE = 'Traceback (most recent call last):\n  File "task.py", line 3, in train\n    x\nRuntimeError: no such layer\n'
SAID = "round 4: no device has answered; rpi-2: train of the task failed: RuntimeError"


def told(hosts, sentence=SAID):
    return [(line.host, line.file, line.text) for line in likely.lines(hosts, sentence, NOW)]


def test_the_runs_sentence_then_causes_then_consequences():
    events = [{"event": "problem", "time": NOW + 5, "message": "rpi-1 is not connected"},
              {"event": "round", "time": NOW + 5, "message": "no space left on device"}]  # fmt: skip
    hosts = {
        "server": Collected({"experiment/metrics.jsonl": "".join(json.dumps(event) + "\n" for event in events),
                             "logs/server.log": f"{stamp(3)} a connection was refused\n"}),
        "rpi-2": Collected({"trainer.log": f"{stamp(4)} begins\n{TRACE}", "disk.txt": "No space left on device"}),
        "rpi-1": Collected({"kernel.log": f"{stamp(4, '+0000')} rpi-1 kernel: Out of memory: Killed process 7\n"})
    }  # fmt: skip
    assert told(hosts) == [
        ("the run", "its last sentence", SAID),
        ("rpi-1", "kernel.log", "rpi-1 kernel: Out of memory: Killed process 7"),
        ("rpi-2", "trainer.log", "RuntimeError: no such layer (task.py, line 3)"),
    ]
    del hosts["rpi-1"]
    assert told(hosts)[2] == ("server", "experiment/metrics.jsonl", "rpi-1 is not connected")


@pytest.mark.parametrize("line", [
    "OSError: [Errno 28] No space left on device", "torch.cuda.OutOfMemoryError: CUDA out of memory.",
    "hwmon hwmon1: Undervoltage detected!", "ssl.SSLError: [SSL: CERTIFICATE_VERIFY_FAILED]: certificate has expired",
])  # fmt: skip
def test_a_known_cause_comes_before_a_traceback_of_a_device_that_is_named(line):
    hosts = {"rpi-1": Collected({"trainer.log": f"{stamp(1)} {line}\n"}),
             "rpi-2": Collected({"trainer.log": f"{stamp(4)} begins\n{TRACE}"})}  # fmt: skip
    assert told(hosts)[1] == ("rpi-1", "trainer.log", line)


def test_what_was_before_the_run_is_of_another_failure_and_the_latest_is_first():
    text = f"{stamp(-900)} MemoryError: old\n{TRACE}{stamp(10)} ValueError: first\n{stamp(20)} KeyError: second\n"
    found = told({"a": Collected({"x.log": text})}, "")
    assert [said for _, _, said in found] == ["KeyError: second", "ValueError: first"]


@pytest.mark.parametrize(("when", "offset"), [
    (stamp(5 + 7200), 7200), (stamp(5 - 3600, "-01:00"), 7200), (stamp(5, "Z").replace(" ", "T"), 7200),
    (time.strftime("[%a %b %d %H:%M:%S %Y]", time.gmtime(NOW + 5 + 7200)), 7200),
])  # fmt: skip
def test_a_device_in_another_time_zone(when, offset):
    assert told({"a": Collected({"x.log": f"{when} MemoryError\n"}, offset)}, "") == [("a", "x.log", "MemoryError")]
    assert likely.lines({"a": Collected({"x.log": f"{when} MemoryError\n"}, offset)}, "", NOW + 200) == []


def test_what_many_devices_say_is_shown_once_and_fit_for_a_terminal():
    said = "{} \x1b[31mrpi-{} cannot reach 10.0.0.{}\n"
    hosts = {f"rpi-{each}": Collected({"x.log": said.format(stamp(each), each, each)}) for each in range(9)}
    assert told(hosts, "") == [("rpi-8", "x.log", "rpi-8 cannot reach 10.0.0.8")]


def test_nothing_a_device_writes_breaks_it():
    nasty = ['{"event": "problem"}', '{"event": "problem", "time": "x", "message": 1}', "[" * 100_000, "\0\xff",
             "9" * 999, "9999-99-99 99:99:99 Error: x", "0000-00-00 00:00:00+99:99 y", "[Mon Feb 31 00:00:00 2026] z",
             ]  # fmt: skip
    text = "\n".join(nasty)
    assert len(told({"a": Collected({"x.jsonl": text, "x.log": text}, 0)}, "")) <= likely.SHOWN
