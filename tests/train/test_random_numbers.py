"""tool/train/random_numbers.py: every step has its batch, whoever asks and whenever the run
started."""

import numpy as np
import pytest

from tool.train.random_numbers import StepSampler, mixed_seed, sample_rng


def batches(**options):
    return list(
        StepSampler(**{'length': 23, 'batch_size': 4, 'max_steps': 17, 'seed': 5} | options)
    )


@pytest.mark.parametrize('start', range(18))
def test_batches_do_not_depend_on_the_start(start):
    assert batches(start_step=start) == batches()[start:]
    assert len(StepSampler(23, 4, 17, 5, start)) == 17 - start


def test_an_epoch_is_a_permutation_without_the_incomplete_batch():
    whole = batches(max_steps=15)
    for epoch in range(3):
        pairs = [pair for batch in whole[5 * epoch : 5 * epoch + 5] for pair in batch]
        assert {e for e, _ in pairs} == {epoch}
        indices = [index for _, index in pairs]
        assert len(set(indices)) == 20 and set(indices) <= set(range(23))
    exact = [index for batch in batches(length=8, batch_size=4, max_steps=2) for _, index in batch]
    assert sorted(exact) == list(range(8))


def test_epochs_and_seeds_differ():
    whole = [[index for _, index in batch] for batch in batches()]
    assert whole[:5] != whole[5:10] and batches() != batches(seed=6)


@pytest.mark.parametrize('world', [2, 4])
def test_ranks_share_the_batch(world):
    parts = [batches(rank=rank, world=world) for rank in range(world)]
    assert [sum(step, []) for step in zip(*parts)] == batches()


def test_streams_are_reproducible_and_apart():
    draws = {
        key: sample_rng(*key).random(4).tolist()
        for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    }
    assert len({tuple(d) for d in draws.values()}) == 4
    assert draws[0, 1, 0] == sample_rng(0, 1, 0).random(4).tolist()


def test_mixed_seed():
    seeds = {mixed_seed(seed, step) for seed in range(5) for step in range(200)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)
    assert mixed_seed(3, 4) == mixed_seed(3, 4) != mixed_seed(4, 3)
    assert (
        mixed_seed(3, 4) == int(np.random.SeedSequence((3, 4)).generate_state(1, np.uint64)[0]) // 2
    )
