"""The method as pure functions of arrays and tensors; of the rest of the project only
tool/run/errors.py is imported."""
