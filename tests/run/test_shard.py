"""tool/run/shard.py: the processes share the pictures out."""

import pytest

from tool.run.errors import UserError
from tool.run.shard import own_share


def test_shards_are_a_partition(monkeypatch):
    listed, parts = list('abcdefg'), []
    monkeypatch.setenv('WORLD_SIZE', '3')
    for rank in range(3):
        monkeypatch.setenv('RANK', str(rank))
        parts += own_share(listed)
    assert sorted(parts) == listed
    with pytest.raises(UserError, match='not with 3 processes'):
        own_share(listed, overwrite=True)
    monkeypatch.setenv('RANK', '3')
    with pytest.raises(UserError, match='RANK=3 WORLD_SIZE=3'):
        own_share(listed)
