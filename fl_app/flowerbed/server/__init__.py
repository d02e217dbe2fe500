"""The server on the stream link: it keeps the devices' connections, and does a run when one is asked for."""
