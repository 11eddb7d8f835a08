"""Linear measurements of images: operators with exact adjoints."""
