"""A resolver worker: its listeners, packet cache, and policy."""
