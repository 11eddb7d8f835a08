"""The page of `--mode app`: a folder of runs in a browser, over the functions of `workdir/`."""
