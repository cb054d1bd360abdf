"""The measurements of `tool.benchmark --device`: the stages on one device, a GPU above all.

`stage_step.py` makes a training step of a stage, `sections.py` measures steps and inference.
"""
