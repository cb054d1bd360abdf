"""What the tests of properties need of this process."""

import pytest
import torch


@pytest.fixture(autouse=True, scope='module')
def subnormal_numbers():
    """Keep numbers near 0 apart from 0, which stages on a CPU do not, in this process either."""
    torch.set_flush_denormal(False)
