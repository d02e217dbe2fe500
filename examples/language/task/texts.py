"""A device's texts, as windows of bytes."""

import os

import torch

LENGTH = 64


def read(folder, share):
    """Return (train, held-out) windows (N, LENGTH + 1) of the lines in texts.txt; the last `share` is held out."""
    with open(os.path.join(folder, "texts.txt"), "rb") as file:
        lines = file.read().splitlines(True)
    end = len(lines) - int(share * len(lines))
    return windows(lines[:end]), windows(lines[end:])


def windows(lines):
    """Return lines as windows that follow each other, each with the first byte of the next one; the rest is left out.

    So a byte of every window is there to be predicted, and none twice.
    """
    text = torch.tensor(list(b"".join(lines)), dtype=torch.uint8)
    if len(text) <= LENGTH:
        raise ValueError("there are %d bytes of text, but a window needs %d" % (len(text), LENGTH + 1))
    return text.unfold(0, LENGTH + 1, LENGTH).contiguous()
