"""Where the policy log is kept; each driver holds SQL and nothing else."""
