"""A task, tried without a fleet: the round loop, and one device and the server's trainer as processes of this machine.

Nothing is checked here: the trainers and the round loop are the fleet's own, and so is what they refuse.
"""
