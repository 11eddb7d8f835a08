"""Functions of many rows over a device mesh: samples, latents, likelihoods, losses, features."""
