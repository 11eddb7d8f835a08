"""The working directory of a run: whose it is, what lies in it, and how it is read and written.

config.json (resolved; later modes read it)  checkpoints/  snapshots/  metrics.jsonl
tensorboard/  samples/  eval/  flow/  report.html
dequantizer/ (settings.json, its own checkpoints/ and metrics.jsonl)
"""
