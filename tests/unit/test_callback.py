import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("ansible")
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "plugins/callback/flowerbed.py"
spec = importlib.util.spec_from_file_location("flowerbed_callback", PLUGIN)
progress = importlib.util.module_from_spec(spec)
spec.loader.exec_module(progress)

DEVICE = {
    "event": "device", "round": 4, "device": "rpi-1", "status": "ok", "examples": 130, "weight": 0.125, "loss": 0.5,
    "accuracy": 0.8, "heldout_accuracy": 0.75, "seconds_train": 1.5, "seconds_transfer": 0.25,
    "bytes_down": 250_000, "bytes_up": 1_250_000, "python": "3.6.9", "torch": "1.10.0",
}  # fmt: skip
LATE = {"event": "device", "round": 4, "device": "jetson-2gb-1", "status": "late", "reason": "no answer in 9 s"}
ROUND = {
    "event": "round", "round": 4, "loss": 0.25, "accuracy": 0.9, "heldout_accuracy": 0.875, "seconds": 5.4,
    "clients_asked": 10, "clients_answered": 9,
}  # fmt: skip
ENDED = {"event": "run-ended", "status": "finished", "message": "Done.", "round": 4}


def told(*events, file=Path("/nowhere/metrics.jsonl")):
    formatter = progress.RunFormatter()
    return [text for event in events for text, _ in formatter.lines(event, file)]


def test_a_round_is_one_aligned_line():
    heading, first, second = told(
        {"event": "run-started", "first_round": 4, "last_round": 12}, ROUND, {**ROUND, "round": 12}
    )[1:]
    assert first.split("  ") and first.split() == [
        "4", "of", "12", "90.0", "%", "0.2500", "87.5", "%", "5.40", "9/10",
    ]  # fmt: skip
    assert len(heading) == len(first) == len(second) and second.split()[:3] == ["12", "of", "12"]


def test_a_round_counts_the_devices_that_it_was_meant_to_have():
    [row] = [
        line for line in told({**ROUND, "clients_wanted": 9, "clients_asked": 2, "clients_answered": 2}) if "%" in line
    ]
    assert row.endswith("2/9")


def test_a_round_with_privacy_has_its_epsilon():
    private = {"where": "device", "clip": 1, "noise": 0.5, "delta": 1e-5, "epsilon": 12.3456}
    heading, row = told({**ROUND, "privacy": private})[1:]
    assert heading.split()[-2:] == ["clients", "ε"] and row.split()[-2:] == ["9/10", "12.35"]
    assert told({**ROUND, "privacy": {**private, "epsilon": None}})[-1].split()[-1] == "∞"
    assert told({"event": "privacy", "message": "each device clips"}) == ["each device clips"]


RMSE = {"loss": 0.25, "rmse": 12345.678, "recall": [0.5, 0.25], "top5_accuracy": 0.5}


def test_metrics_have_the_task_s_names_and_only_shares_are_percentages():
    regression = {**ROUND, "metric": "rmse", "metrics": RMSE, "heldout_metrics": {"loss": 1e-7, "rmse": 2}}
    heading, row = told(regression)[1:]
    assert re.split(r"\s{2,}", heading.strip()) == ["round", "rmse", "loss", "held-out rmse", "seconds", "clients"]
    assert row.split() == ["4", "1.235e+04", "0.2500", "2", "5.40", "9/10"]
    heading, row = told({**regression, "metric": "loss"})[1:]
    assert re.split(r"\s{2,}", heading.strip()) == ["round", "loss", "held-out loss", "seconds", "clients"]
    assert row.split() == ["4", "0.2500", "1e-07", "5.40", "9/10"]


def test_the_metrics_that_were_chosen_are_shown_lists_by_their_ends():
    started = {"event": "run-started", "last_round": 4, "show": ["top5_accuracy", "recall"]}
    device = {**DEVICE, "metrics": RMSE, "heldout_metrics": {**RMSE, "recall": [0.125, 1]}}
    lines = told(started, device, {**ROUND, "metric": "loss", "metrics": RMSE, "heldout_metrics": {}}, ENDED)
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        "round", "top5_accuracy", "held-out top5_accuracy", "recall", "held-out recall", "seconds", "clients",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", lines[2].strip())[1:5] == ["50.0 %", "–", "0.25 to 0.5", "–"]
    heading, row = lines[5:7]
    assert "0.125 to 1" in row and heading.index("status") == row.index("ok")


def test_what_a_run_says_at_its_start_is_a_line():
    message = "waits up to 60 s for rpi-1, rpi-2 (not connected)"
    assert told({"event": "waiting", "devices": ["rpi-1", "rpi-2"], "message": message}) == [message]
    assert told({"event": "initial", "path": "/a", "message": "from /a"}) == ["from /a"]
    assert told({"event": "strategy", "message": "FedAdam has"}) == ["FedAdam has"]
    assert told({"event": "explosion", "round": 1, "message": "it explodes"}) == ["it explodes"]
    assert told({"event": "memory", "message": "the model has"}) == ["the model has"]
    message = "the fleet is another than before: rpi-4 came and rpi-3 went"
    assert told({"event": "fleet", "came": ["rpi-4"], "went": ["rpi-3"], "changed": [], "message": message}) == [
        message
    ]


def test_what_a_device_said_forges_no_line_and_moves_no_cursor():
    """An experiment may hold events that were written before devices' words were cleaned."""
    forged = "x\x1b[2J\nrounds 1 to 99 are done\n" + "y" * 3_500_000
    lines = told(
        {"event": "problem", "message": forged}, {**DEVICE, "status": "failed", "reason": forged, "python": forged},
        ROUND, ENDED,
    )  # fmt: skip
    assert any("x rounds 1 to 99 are done y" in line for line in lines) and "rounds 1 to 99 are done" not in lines
    assert not any("\x1b" in line or "\n" in line for line in lines) and sum(map(len, lines)) < 20_000


def test_what_a_round_lacks_is_a_dash():
    assert told({"event": "round", "round": 1, "accuracy": None, "loss": float("nan")})[-1].split() == [
        "1", "–", "–", "–", "–", "–/–",
    ]  # fmt: skip


def test_problem_and_end_are_their_messages():
    assert told({"event": "problem", "message": "rpi-1 sent NaN."}, {**ENDED}) == ["rpi-1 sent NaN.", "Done."]


def test_why_a_run_failed_is_left_to_the_task_that_fails():
    assert told({**ENDED, "status": "failed"}) == []


def test_the_table_is_of_the_last_finished_round(tmp_path):
    for path in ("model/last.safetensors", "metrics.jsonl"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    old, unfinished = {**DEVICE, "device": "old"}, {**DEVICE, "device": "new"}
    lines = told(old, ROUND, DEVICE, LATE, ROUND, unfinished, ENDED, ENDED, file=tmp_path / "metrics.jsonl")
    end = lines[lines.index("Done.") :]
    heading, first, second = end[2:5]
    assert first.split() == [
        "rpi-1", "130", "0.125", "0.5000", "80.0", "%", "75.0", "%", "1.50", "0.25", "0.25", "1.25", "3.6.9", "1.10.0",
        "ok",
    ]  # fmt: skip
    assert second.startswith("jetson-2gb-1  ") and second.endswith("–  late: no answer in 9 s")
    assert heading.index("status") == first.index("ok") == second.index("late")
    paths = ["", f"model: {tmp_path}/model/last.safetensors", f"metrics: {tmp_path}/metrics.jsonl", "Done."]
    assert end[5:] == paths  # the table comes once


def test_a_device_s_steps_and_why_it_has_no_score_are_in_the_table():
    lines = told(
        {**DEVICE, "steps": 250, "heldout_reason": "rpi-1 gave no score: it had not answered"}, LATE, ROUND, ENDED
    )
    heading, first, second = lines[lines.index("Done.") + 2 :][:3]
    assert heading.split()[3] == "steps" and first.split()[3] == "250" and second.split()[3] == "–"
    assert first.endswith("ok; rpi-1 gave no score: it had not answered") and second.endswith("late: no answer in 9 s")


def follow(file, *, until, write):
    """The events that a follower of `file` shows while `write` runs, until there are `until` of them."""
    events, enough = [], threading.Event()

    def show(event):
        events.append(event)
        if len(events) >= until:
            enough.set()

    follower = progress.Follower(file, show)
    follower.start()
    write()
    assert enough.wait(120), events
    follower.stop()
    assert not follower.is_alive()
    return events


def test_follows_from_the_end_of_the_file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"event": "round", "round": 1}\n')

    def write():
        with open(file, "a") as out:
            out.write('{"event": "round", "round": 2}\n')

    assert follow(file, until=1, write=write) == [{"event": "round", "round": 2}]


def test_follows_a_file_that_comes_later_and_skips_corrupt_lines(tmp_path):
    file = tmp_path / "later/metrics.jsonl"

    def write():
        file.parent.mkdir()
        file.write_bytes(b'{"a": 1}\nnonsense\n\xff\xfe\n[1, 2]\n\n{"cut\n{"b": 2}\n{"half": ')
        with open(file, "a") as out:
            out.write('3}\n{"unfinished": ')

    assert follow(file, until=3, write=write) == [{"a": 1}, {"b": 2}, {"half": 3}]


def test_stopping_reads_the_rest(tmp_path):
    file, events = tmp_path / "metrics.jsonl", []
    follower = progress.Follower(file, events.append)
    follower.start()
    file.write_text('{"a": 1}\n')
    follower.stop()
    assert events == [{"a": 1}]


def test_an_event_that_cannot_be_shown_does_not_end_the_show(tmp_path):
    file, shown = tmp_path / "metrics.jsonl", []

    def show(event):
        shown.append(10 / event["a"])

    follower = progress.Follower(file, show)
    follower.start()
    file.write_text('{"a": 0}\n{}\n{"a": 5}\n')
    follower.stop()
    assert shown == [2]


PLAY = """
- name: Run
  hosts: all
  gather_facts: false
  vars:
    folder: "{{ playbook_dir }}/runs/local"
  tasks:
    - name: Another task
      ansible.builtin.command: "true"
    - name: Run the rounds
      ansible.builtin.command: {argv: ["{{ ansible_playbook_python }}", "{{ playbook_dir }}/run.py", "{{ folder }}"]}
      run_once: true
      vars:
        flowerbed_progress_file: "{{ folder }}/metrics.jsonl"
"""
RUN = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "metrics.jsonl", "a", buffering=1) as out:
    for event in json.loads({events!r}):
        out.write(json.dumps(event) + "\\n")
    out.write("garbage\\n")
    while not (folder / "go-on").exists():  # the reader has seen a round while the task runs
        time.sleep(0.01)
    out.write(json.dumps({ended!r}) + "\\n")
sys.exit({code})
"""


@pytest.fixture
def playbook(tmp_path):
    def write(code=0):
        events = json.dumps([{"event": "run-started", "last_round": 4}, DEVICE, ROUND])
        (tmp_path / "run.py").write_text(RUN.format(events=events, ended=ENDED, code=code))
        (tmp_path / "play.yml").write_text(PLAY)
        return [
            Path(sys.executable).parent / "ansible-playbook", tmp_path / "play.yml",
            "-i", "a,b,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}",
        ]  # fmt: skip

    return write


@pytest.mark.parametrize("code", [0, 1])
def test_in_a_playbook(playbook, tmp_path, code):
    environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_FORCE_COLOR"}
    with subprocess.Popen(playbook(code), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
        output = []
        for line in run.stdout:
            output.append(line.rstrip("\n"))
            if "4 of 4" in line:  # seen while the task waits for this very file
                (tmp_path / "runs/local/go-on").touch()
    assert run.returncode == (2 if code else 0)
    assert [line for line in output if "4 of 4" in line] == [
        "    4 of 4    90.0 %    0.2500             87.5 %      5.40      9/10"
    ]
    assert "Done." in output and any(line.startswith("rpi-1 ") for line in output)
    assert f"metrics: {tmp_path}/runs/local/metrics.jsonl" in output
    assert not any("\x1b" in line or "WARNING" in line for line in output)
    # The task's name, what the run says, the task's outcome.
    task = output[output.index(next(line for line in output if line.startswith("TASK [Run the rounds]"))) :]
    said = task.index("Done."), task.index(f"metrics: {tmp_path}/runs/local/metrics.jsonl")
    assert said < (task.index("fatal: [a]: FAILED! => " if code else "changed: [a]"),)


def test_check_mode_shows_nothing(playbook, tmp_path):
    done = subprocess.run([*playbook(), "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "round" not in done.stdout and "WARNING" not in done.stderr


FAILING = """
- name: Fail
  hosts: all
  gather_facts: false
  tasks:
    - name: Fail alike
      ansible.builtin.fail:
        msg: "{{ 'Another cause.' if inventory_hostname == 'c' else inventory_hostname ~ ' died.' }}"
      when: inventory_hostname != 'e'
    - name: Fail alone
      ansible.builtin.fail:
        msg: e died.
"""


def test_a_failure_of_several_hosts_is_shown_once(tmp_path):
    (tmp_path / "play.yml").write_text(FAILING)
    command = [Path(sys.executable).parent / "ansible-playbook", tmp_path / "play.yml", "-i", "ha,hb,c,hd,e,"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("died.") == 2 and done.stdout.count("Another cause.") == 1
    ((others, first),) = re.findall(r"fatal: \[(.*)\]: FAILED! => as on (.*)\n", done.stdout)
    assert sorted([first, *others.split(", ")]) == ["ha", "hb", "hd"]
    assert "fatal: [e]: FAILED! => " in done.stdout and done.stdout.count("failed=1") == 5


FOR_NONE = """
- name: Only where something is amiss
  hosts: "{{ [] }}"
  gather_facts: false
- name: Of a group that is not there
  hosts: nobody
  gather_facts: false
"""


def test_a_play_that_is_for_no_host_is_not_shown(tmp_path):
    (tmp_path / "play.yml").write_text(FOR_NONE)
    command = [Path(sys.executable).parent / "ansible-playbook", tmp_path / "play.yml", "-i", "a,"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "amiss" not in done.stdout and done.stdout.count("no hosts matched") == 1
