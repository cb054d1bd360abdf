"""tool/run/shard.py: the processes share the pictures out."""

import pytest

from tool.run.errors import UserError
from tool.run.shard import own_share, shard_index


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


@pytest.mark.parametrize(
    'rank, world', [('x', '2'), ('0', 'x'), ('0', '-2'), ('-1', '2'), ('2', '2'), ('0', '²')]
)
def test_what_is_no_number_of_a_process_is_one_line(monkeypatch, rank, world):
    monkeypatch.setenv('RANK', rank)
    monkeypatch.setenv('WORLD_SIZE', world)
    with pytest.raises(UserError, match=f'RANK={rank} WORLD_SIZE={world}: RANK must be a number'):
        shard_index()


def test_a_number_of_processes_alone_is_refused(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UserError, match='WORLD_SIZE=2 is set and RANK is not'):
        shard_index()


def test_a_share_without_torchrun_is_told(monkeypatch, capsys):
    """RANK and WORLD_SIZE may have been forgotten in the environment."""
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    assert own_share(['a', 'b', 'c']) == ['a', 'c']
    assert capsys.readouterr().err == 'RANK=0 WORLD_SIZE=2: this process takes 2 of 3 pictures\n'
    monkeypatch.setenv('LOCAL_RANK', '0')
    assert own_share(['a', 'b', 'c']) == ['a', 'c']
    assert capsys.readouterr().err == ''
