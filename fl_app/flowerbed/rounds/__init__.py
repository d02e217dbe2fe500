"""The round loop: choose clients, send, collect with a deadline, check, weigh, aggregate, evaluate, checkpoint."""
