"""Everything that exists only to make a CPU faster: with or without it the networks compute the
same."""
