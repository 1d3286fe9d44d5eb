"""Bounded requests to third-party servers: webhooks, proofs, look-ups.  No processes."""
