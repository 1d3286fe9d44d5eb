"""The sockets that clients talk to."""
