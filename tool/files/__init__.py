"""Files on disk: one module for each format that the stages exchange.

Files are written atomically. Reading one never runs code, because pickles and checkpoints come from
strangers: a `.npy` file may hold a numeric array or a dict of them with str or int keys, a
checkpoint may hold tensors only. Anything else is an error that names the file.
"""
