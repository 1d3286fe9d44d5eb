"""The control process: policy log, workers' updates, feeds, child processes, API."""
