"""HTTP for machines: metrics and health.  Part of the control process, never of a worker."""
