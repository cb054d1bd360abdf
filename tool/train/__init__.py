"""One training loop and all it needs: engine, states, optimiser, precision, random numbers,
processes, run log."""
