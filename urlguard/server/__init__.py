"""The supervisor: sockets, processes, reloads and systemd."""
