"""Training: runs on disk, data, optimisation, checkpoints, logs, signals."""
