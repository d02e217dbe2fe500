"""Which image fits which board: by its name before it is pulled, then by what its own Python says there."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles" / "trainer"
spec = importlib.util.spec_from_file_location("trainer_image", ROLE / "filter_plugins" / "trainer_image.py")
role = importlib.util.module_from_spec(spec)
spec.loader.exec_module(role)

# The head of what nvidia-smi prints
SMI = "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |\n"
ENGINE = {"runtimes": ["nvidia", "runc"], "cdi": False}
OUTPUTS = {"nvidia_smi": "", "nvidia_nodes": "", "nvidia_cards": ""}


def board(kind, l4t="", machine="aarch64", docker=ENGINE, nvidia=False, page=4096, **outputs):
    return {
        "kind": kind, "l4t": l4t, "machine": machine, "page": page, "docker": docker, "engine": {"nvidia": nvidia},
        "outputs": {**OUTPUTS, **outputs},
    }  # fmt: skip


NANO = board("jetson", "32.7.1", nvidia_nodes="/dev/nvhost-gpu\n")
ORIN5 = board("jetson", "35.4.1", nvidia_nodes="/dev/nvhost-gpu\n")
ORIN6 = board("jetson", "36.4.3", nvidia_nodes="/dev/nvgpu/igpu0\n")
PI5 = board("raspberry_pi", docker={"runtimes": ["runc"], "cdi": False}, page=16384)
PC = board("other", machine="x86_64", docker={"runtimes": ["runc"], "cdi": False})
CARD = board("other", machine="x86_64", nvidia_smi=SMI, nvidia_nodes="/dev/nvidia0\n", nvidia_cards="0x030000\n")
OF_4, OF_5, OF_6 = "lhkhiem28/jetson:1.0", "dustynv/l4t-pytorch:r35.4.1", "dustynv/l4t-pytorch:r36.4.0"
OF_PI, OF_CARD = "lhkhiem28/rpi:1.4", "pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime"


@pytest.mark.parametrize(
    ("facts", "image"),
    [(NANO, OF_4), (ORIN5, OF_5), (ORIN6, OF_6), (PI5, OF_PI), (PC, OF_CARD), (CARD, OF_CARD), (ORIN6, "me/mine:2"),
     (NANO, "me/l4t:r32.7.1"), (PC, "me/server35.1:r35.1")],
)  # fmt: skip
def test_an_image_whose_name_says_nothing_wrong_is_let_be(facts, image):
    assert "images" not in role.checks(facts, image, True)


@pytest.mark.parametrize(
    ("facts", "image", "sentence"),
    [
        (ORIN6, OF_4, "has L4T 36.4.3, but the tutorial's image is made for JetPack 4.6, L4T 32.6 or 32.7: set "
         "trainer_image to one with Python 3.6 or newer, numpy and torch for L4T 36.4.3 (JetPack 6, CUDA 12.6), such "
         f"as {OF_6}"),
        (ORIN5, OF_4, "has L4T 35.4.1, but the tutorial's image is made for JetPack 4.6, L4T 32.6 or 32.7: set "
         "trainer_image to one with Python 3.6 or newer, numpy and torch for L4T 35.4.1 (JetPack 5, CUDA 11.4), such "
         f"as {OF_5}"),
        (ORIN6, OF_5, f"has L4T 36.4.3, but the image {OF_5} (trainer_image) is made for L4T 35: set trainer_image"),
        (NANO, "me/l4t:r36.4.0-mine", "has L4T 32.7.1, but the image me/l4t:r36.4.0-mine (trainer_image) is made for"),
        (board("jetson", "32.5.2"), OF_4, "has L4T 32.5.2, but the tutorial's image is made for JetPack 4.6, L4T 32.6 "
         "or 32.7: flash JetPack 4.6.1, or set trainer_image to one"),
        (PI5, OF_6, f"is no Jetson, but the image {OF_6} (trainer_image) is made for one: set trainer_image to one "
         f"with Python 3.6 or newer, numpy and torch for aarch64, such as {OF_PI}"),
        (PC, OF_PI, "has an x86_64 processor, but the tutorial's image is made for a Raspberry Pi's: set trainer_image "
         f"to one with Python 3.6 or newer, numpy and torch for x86_64, such as {OF_CARD}"),
        (CARD, OF_4, "is no Jetson, but the tutorial's image is made for one: set trainer_image to one with Python 3.6 "
         f"or newer, numpy and torch for x86_64 (CUDA 12.4), such as {OF_CARD}"),
    ],
)  # fmt: skip
def test_an_image_for_another_board_is_refused_before_it_is_pulled(facts, image, sentence):
    state, _, found = role.checks(facts, image, True)["images"]
    assert state == "fail" and found.startswith(sentence)
    assert "images" not in role.checks(facts, image, False), "in the process runtime no image is involved"


@pytest.mark.parametrize(
    ("facts", "way"),
    [
        (NANO, "runtime"), (CARD, "runtime"), (PI5, ""), (PC, ""),
        (board("jetson", "36.4.3", docker={"runtimes": ["runc"], "cdi": True}), "cdi"),
        (board("other", nvidia_smi=SMI, docker={"runtimes": ["runc"], "cdi": True}), "cdi"),
        (board("other", nvidia_smi=SMI, docker={"runtimes": ["runc"], "cdi": True}, nvidia=True), "runtime"),
        (board("other", nvidia_smi=SMI, docker={"runtimes": ["runc"], "cdi": False}), ""),
        (board("other", docker={"runtimes": ["nvidia"], "cdi": True}), ""),  # but no card that works
        (board("jetson", "36.4.3", docker={"error": "not installed"}), ""),
    ],
)  # fmt: skip
def test_how_a_container_gets_the_gpu(facts, way):
    assert role.way(facts) == way


@pytest.mark.parametrize(
    ("facts", "docker", "expected"),
    [
        (CARD, True, ("ok", "CUDA 12.4", "")),
        (CARD, False, ("ok", "CUDA 12.4", "")),
        (board("other", nvidia_cards="0x030200\n"), False,
         ("warn", "no", "has an NVIDIA card but not NVIDIA's driver")),
        (board("other", nvidia_smi=SMI, docker={"runtimes": [], "cdi": False}), True,
         ("warn", "no", "has an NVIDIA card that containers cannot use")),
        (board("other", nvidia_smi=SMI, docker={"runtimes": [], "cdi": False}, nvidia=True), True,
         ("warn", "no", "has a Docker engine that does not know its runtime nvidia yet: deploy.yml adds it")),
        (board("other", nvidia_cards="0x040300\n"), True, None),  # its sound alone
        (PC, True, None),
        (ORIN6, True, None),  # which the role jetson judges
    ],
)  # fmt: skip
def test_what_preflight_says_of_a_card(facts, docker, expected):
    found = role.checks(facts, OF_CARD, docker).get("nvidia")
    assert (found and (*found[:2], found[2][: len(expected[2])])) == expected


HAS = {"python": "3.10.12", "numpy": "1.26.4", "torch": "2.4.0", "cuda": "12.6", "gpu": "Orin",
       "why": "", "l4t": ""}  # fmt: skip


def judged(facts, image, stderr="", rc=0, **changes):
    answer = {"rc": rc, "stderr": stderr, "stdout": "a warning\n" + json.dumps({**HAS, **changes}) + "\n"}
    return role.verdict(answer, facts, image)


@pytest.mark.parametrize("facts", [NANO, ORIN5, ORIN6, CARD])
def test_where_a_cuda_kernel_ran_nothing_else_counts(facts):
    found = judged(facts, "me/mine", cuda="11.8", l4t="# R35 (release), REVISION: 2.1")
    assert not found["problem"] and not found["note"] and found["has"]["gpu"] == "Orin"


@pytest.mark.parametrize("facts", [PI5, PC])
def test_without_a_gpu_torch_on_the_processor_will_do(facts):
    found = judged(facts, OF_PI, cuda="", gpu="")
    assert not found["problem"] and not found["note"]


@pytest.mark.parametrize(
    ("facts", "image", "changes", "sentence"),
    [
        (ORIN6, "me/mine", {"l4t": "# R35 (release), REVISION: 4.1, GCID: 1"}, "is made for L4T 35, but this board has "
         f"L4T 36.4.3 (JetPack 6, CUDA 12.6): choose one with Python 3.6 or newer, numpy and torch for L4T 36.4.3 "
         f"(JetPack 6, CUDA 12.6), such as {OF_6}"),
        (ORIN6, "me/mine", {"l4t": "deb https://x/jetson/common r32.7 main"}, "is made for L4T 32, but this board has"),
        (ORIN6, "me/mine:r35.1", {}, "is made for L4T 35, but this board has"),
        (ORIN5, "me/mine", {"cuda": "12.6"}, "has a torch for CUDA 12.6, but this board has L4T 35.4.1 (JetPack 5, "
         "CUDA 11.4): choose"),
        (ORIN6, "me/mine", {"cuda": "10.2"}, "has a torch for CUDA 10.2, but this board has"),
        (CARD, "me/mine", {"cuda": "13.0"}, "has a torch for CUDA 13.0, but this board has x86_64 (CUDA 12.4): choose"),
        (CARD, "me/mine", {"cuda": "12.1", "why": "no kernel image is available for execution on the device [sm_120; "
                           "built for sm_80]"},
         "cannot run a CUDA kernel on this board, which has x86_64 (CUDA 12.4) (no kernel image is available for "
         "execution on the device [sm_120; built for sm_80]): choose"),
        (NANO, "me/mine", {"cuda": "10.2"}, "cannot run a CUDA kernel on this board, which has L4T 32.7.1 (JetPack 4, "
         f"CUDA 10.2) (torch sees no GPU): choose one with Python 3.6 or newer, numpy and torch for L4T 32.7.1 "
         f"(JetPack 4, CUDA 10.2), such as {OF_4}"),
    ],
)  # fmt: skip
def test_where_no_kernel_ran_the_image_is_refused_with_the_reason(facts, image, changes, sentence):
    assert judged(facts, image, **{"gpu": "", **changes})["problem"].startswith(sentence)


@pytest.mark.parametrize(
    ("facts", "changes", "sentence"),
    [
        (ORIN6, {"cuda": ""}, "has a torch without CUDA, so the board trains on its processor. For its GPU, choose"),
        (board("jetson", "36.4.3"), {}, "finds no GPU, for this board's kernel shows none, so"),
    ],
)
def test_what_trains_on_the_processor_beside_a_gpu_is_let_be_with_a_word(facts, changes, sentence):
    found = judged(facts, "me/mine", **{"gpu": "", **changes})
    assert not found["problem"] and found["note"].startswith(sentence)


@pytest.mark.parametrize(
    ("rc", "stderr", "sentence"),
    [
        (1, "WARNING: The requested image's platform (linux/amd64) …\nexec /usr/bin/python3: exec format error\n",
         "is made for another processor than this board's, aarch64: choose one with Python 3.6"),
        (132, "", "has a numpy or torch that this processor cannot run (illegal instruction): choose"),
        (1, "cannot train: libtorch_cpu.so: ELF load command alignment not page-aligned\n",
         "has programs for memory in pages of 4 kB, and this board's kernel has pages of 16 kB: boot the other kernel "
         "(on a Raspberry Pi 5, kernel=kernel8.img in /boot/firmware/config.txt), or choose"),
        (1, "noise\nhas Python 2.7, and a trainer needs 3.6 or newer\n",
         "has Python 2.7, and a trainer needs 3.6 or newer: choose"),
        (1, "cannot train: No module named 'torch'\n", "cannot train: No module named 'torch': choose"),
        (127, "docker: \x1b[2Jexec: no python3\nmore\n",
         "cannot be asked what it has: docker: exec: no python3: choose"),
        (1, "", "gives no answer: choose"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_train_is_refused_with_the_reason(rc, stderr, sentence):
    found = judged(PI5, OF_PI, rc=rc, stderr=stderr)
    assert found["problem"].startswith(sentence) and found["problem"].endswith(f"for aarch64, such as {OF_PI}")
    assert found["has"] == {}


@pytest.mark.parametrize("said", ["", "[1]", "{}", '{"gpu": 1}', "Segmentation fault"])
def test_an_answer_that_is_none_is_refused(said):
    found = role.verdict({"rc": 0, "stderr": "", "stdout": said}, ORIN6, OF_6)
    assert found["problem"].startswith("gives no answer: choose") and found["has"] == {}


@pytest.mark.parametrize(
    ("l4t", "image"),
    [("38.2.0", ""), ("36.4.3", OF_6), ("36.3.0", "dustynv/l4t-pytorch:r36.2.0"), ("35.1.0", OF_5), ("32.7.6", OF_4)],
)
def test_the_image_that_is_named_is_one_for_the_boards_own_release(l4t, image):
    problem = judged(board("jetson", l4t), "me/mine", rc=1)["problem"]
    assert problem.endswith(f", such as {image}" if image else "(JetPack 7, CUDA 13.0)")


@pytest.mark.parametrize(
    ("version", "image"),
    [("13.0", "2.7.1-cuda12.8"), ("12.8", "2.7.1-cuda12.8"), ("12.2", "2.5.1-cuda12.4"), ("11.8", "2.5.1-cuda11.8")],
)
def test_the_image_that_is_named_is_one_for_the_cards_driver(version, image):
    facts = board("other", machine="x86_64", nvidia_smi=SMI.replace("12.4", version))
    assert judged(facts, "me/mine", rc=1)["problem"].endswith(f", such as pytorch/pytorch:{image}-cudnn9-runtime")


def test_what_an_images_python_is_asked_it_can_answer():
    done = subprocess.run([sys.executable, "-c", (ROLE / "files/probe.py").read_text()], capture_output=True, text=True)
    found = role.verdict({"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}, PC, OF_CARD)
    assert not found["problem"] and set(found["has"]) == set(HAS) and found["has"]["python"] in sys.version


def test_the_images_that_are_named_stand_in_the_docs():
    text = (ROLE.parents[1] / "docs/boards.md").read_text()
    table = text.partition("## Images")[2].partition("## What")[0]
    named = {*role.OF_JETSONS.values(), *role.OF_CARDS.values(), role.TUTORIALS_PI}
    assert {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")} == named
