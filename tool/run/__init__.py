"""How a command runs: errors, command lines, worker pools, sharding, interrupts, progress. Loads no
torch at import."""
