"""What goes out to strangers, within bounds: webhooks, proofs, look-ups.  No processes."""
