"""The link of our own: one connection a device, open all the time, on which either end sends when it has something.

Who calls whom, on the server (python -m flowerbed.server):
    `grid`          what the round loop sees, a Flower Grid: it hands messages to
    `connections`   which has all devices' connections on one event loop, on one thread, and hands their answers back;
    `registry`      has the certificates by which it knows them
and on a device (python -m flowerbed.client):
    `device`        connects to the server, and hands each message to link.answers
At both ends are `frames`, above TLS (see link.identity), and `wire`: the bytes that are sent, and what they may be.
Nothing of Flower's is in any of these but `grid`. Why it is not gRPC: that does not say who was refused, nor why.
"""
