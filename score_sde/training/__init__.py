"""Training: state, step, devices, checkpoints."""
