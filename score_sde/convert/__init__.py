"""Checkpoints of the published codes: reading, converting and writing them, without executing anything in them."""
