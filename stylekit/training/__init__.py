"""Training: runs on disk, data, optimization, checkpoints, logs, signals."""
