"""The client: holds the connection to the server and hands each message to the trainer. No torch here."""
