"""What goes out to strangers, within bounds: webhooks, proof files, TXT records.  No processes."""
