"""The HTTP API, metrics and health.  Part of the control process, never of a worker."""
