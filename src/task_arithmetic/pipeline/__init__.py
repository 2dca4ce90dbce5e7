"""What surrounds the stages in a run: jobs, locks, GPUs, the store, labels of code, status.

Nothing here may change a result."""
