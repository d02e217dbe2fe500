"""The link of our own: one call of gRPC's a device, open all the time, on which either end sends when it has something.

Who calls whom, on the server (python -m flowerbed.server):
    `grid`          what the round loop sees, a Flower Grid: it hands messages to
    `connections`   which has all devices' calls on one event loop, on one thread, and hands their answers back
and on a device (python -m flowerbed.client):
    `device`        calls the server, and hands each message to link.answers
`wire` has the bytes that both ends send, and what they may be. Nothing of Flower's is in it.
"""
