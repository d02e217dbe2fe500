"""Devices that join and leave the stream's grid, at moments that real connections meet only now and then."""

from types import SimpleNamespace

import fleet
from flowerbed.link import wire
from flowerbed.link.stream import StreamGrid, _Device


class Connection(_Device):
    """A connection that ends as soon as it has said who it is, before the grid has taken that up."""

    def __init__(self, grid: StreamGrid) -> None:
        super().__init__("1", None, SimpleNamespace(cancel=lambda: None))
        self._grid = grid

    def request(self, instruction: list[bytes], seconds: float) -> wire.Answer:
        self._grid._leave(self)
        return wire.Answer("query", values={"name": "d0"})


def test_a_connection_that_ends_while_it_joins_leaves_no_ghost():
    grid = StreamGrid(f"127.0.0.1:{fleet.free_port()}", ["d0"])
    grid._join(Connection(grid))
    assert grid.get_node_ids() == []
