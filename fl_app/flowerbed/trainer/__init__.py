"""The trainer: a warm worker in the device's own Python (3.6 or newer: standard library, numpy and torch).

It keeps torch, the model and the data in memory from round to round and answers over HTTP on a Unix socket:

    GET  /health    what it is, and whether it is ready; one that could not load its task or data tries anew
    POST /initial   a new model's tensors
    POST /train     tensors in, trained tensors out
    POST /evaluate  tensors in, loss and accuracy on the held-out data out

Tensors are safetensors bytes in the body; configuration and metrics are JSON in the headers `Flowerbed-Config` and
`Flowerbed-Metrics`. Closing the connection cancels the job.
"""
