"""The method as pure functions of arrays and tensors; nothing here imports from the rest of the project."""
