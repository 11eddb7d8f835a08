"""The modes of the command line, one file each: its work as a recipe, what it writes and says.

A mode is a function `main`. No mode imports another; what they share lies in `workdir/` and
`parallel/`. `table.py` has a row for every mode and for every flag.
"""
