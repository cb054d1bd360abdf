"""The paper's method as pure functions of arrays and tensors; imports nothing else of ours."""
