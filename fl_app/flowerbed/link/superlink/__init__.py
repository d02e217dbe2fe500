"""The link on Flower's deployment engine: its SuperLink, SuperNodes and `flwr run`, as Flower made them.

Who calls whom, on the server:
    python -m flowerbed.submit       calls `submit`, which calls `flwr run` and waits for what the run records
    flower-superlink                 (a program of its own, behind `guard`; `database` has made its file) starts, for a
                                     run,
    `server_app`                     with Flower's own Grid, on which it calls rounds.loop
    python -m flowerbed.link.superlink.nodes   is what deploy.yml calls, to register the devices' keys
and on a device:
    flower-supernode                 (a program of its own, to which `key` gives the device's key) starts, for each
                                     message,
    `client_app`                     which hands it to link.answers; Python imports `sitecustomize`, which is placed as
                                     app/sitecustomize.py, before all else, and so this starts in half the time
"""
