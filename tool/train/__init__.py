"""The training loop and what it needs: optimiser, precision, processes, training states, log."""
