"""The tables of tool.reproduce: their rows, how their runs are run, what is written of them."""
