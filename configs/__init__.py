"""Configurations: one file per recipe, `get_config(dataset)`; the data set follows the file name after a colon."""
