"""Published checkpoints into working directories of ours, and back."""
