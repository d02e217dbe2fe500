"""Flowerbed: federated learning on Raspberry Pis, Jetson Nanos and the processes that stand in for them."""
