"""Files on disk: every format the stages hand over, a module each, read safely and written
atomically.

Pickles and checkpoints come from strangers, so reading one never runs code: a `.npy` may hold a
plain array or a dict of str/int keys to numeric arrays, a checkpoint holds tensors only. Anything
else is an error that names the file.
"""
