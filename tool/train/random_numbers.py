"""Random numbers: one seed, one result.

Every random choice is a function of the seed and of what it is for, never of the process that draws
it. So the number of workers, processes and restarts does not change a run.
"""

from collections.abc import Iterator

import numpy as np
import torch


def mixed_seed(*parts: int) -> int:
    """A 63-bit seed from several numbers, e.g. (seed, step). Other numbers, unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of one sample's augmentation, whichever worker or process loads it."""
    return np.random.default_rng((seed, epoch, index))


class StepSampler(torch.utils.data.Sampler):
    """Batch sampler over a whole training run.

    It yields a list of (epoch, index) pairs for each step. The order of an epoch comes from (seed,
    epoch) alone, and its incomplete last batch is dropped. So a run that starts at any step gets
    the same batches.

    Args:
        length: images in the data set.
        batch_size: images per step, all processes together.
        max_steps: steps of the whole run.
        start_step: first step to give out.
        rank, world: this process takes the rank-th of `world` equal parts of each batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        max_steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.length = length
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.seed = seed
        self.start_step = start_step
        self.rank = rank
        self.world = world
        self.steps_per_epoch = length // batch_size

    def __len__(self) -> int:
        return self.max_steps - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        part = self.batch_size // self.world
        order = None
        for step in range(self.start_step, self.max_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if order is None or position == 0:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            first = position * self.batch_size + self.rank * part
            yield [(epoch, int(index)) for index in order[first : first + part]]
