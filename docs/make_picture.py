"""Make docs/demo.svg, a picture of a terminal, from what a command really prints.

    make demo
    python docs/make_picture.py docs/demo.svg ansible-playbook run_round.yml -e rounds=3 -e experiment=picture

It shows the round table and what follows, to where the metrics are: Ansible's own lines around that are left out.
"""

import io
import os
import shlex
import subprocess
import sys

from rich.console import Console
from rich.text import Text


def picture(command: list[str], output: str) -> str:
    """Return the SVG of a terminal in which `command` printed `output`, ANSI colours and all."""
    lines = [Text.from_ansi(line) for line in output.splitlines() if line.strip()]
    begin, end = (place(lines, words) for words in ("  round  ", "metrics: "))
    shown = lines[begin : end + 1]
    width = max(len(line.plain) for line in shown)
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False)
    for line in shown:
        console.print(line, no_wrap=True, crop=False)
    return console.export_svg(title=shlex.join(command), unique_id="flowerbed")


def place(lines: list[Text], words: str) -> int:
    """Return the place of the first line that has `words`."""
    return next(index for index, line in enumerate(lines) if words in line.plain)


def main() -> None:
    """Run the command, and write the picture."""
    path, *command = sys.argv[1:]
    done = subprocess.run(
        command, env={**os.environ, "ANSIBLE_FORCE_COLOR": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    with open(path, "w") as file:
        file.write(picture(command, done.stdout) + "\n")


if __name__ == "__main__":
    main()
