"""The control process: it writes the policy log and keeps the workers up to date."""
