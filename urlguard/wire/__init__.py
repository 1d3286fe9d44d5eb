"""The DNS wire format: queries in, answers out; no sockets, no policy."""
