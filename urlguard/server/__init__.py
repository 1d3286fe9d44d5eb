"""Sockets and processes: what carries queries to the chain of plugins and answers back."""
