"""The model: what comes next in a text, byte by byte."""

from torch import nn

BYTES = 256


class Language(nn.Module):
    """A recurrent net whose output layer is its table of bytes once more: tied, they are one parameter."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Embedding(BYTES, width)
        self.net = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, BYTES)
        nn.init.normal_(self.table.weight, std=width**-0.5)  # as large as an output layer wants it
        self.out.weight = self.table.weight

    def forward(self, text):
        """Map bytes (N, length) to the logits of the byte that follows each (N, length, 256)."""
        return self.out(self.net(self.table(text))[0])
