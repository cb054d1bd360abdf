"""Random numbers that depend on the seed alone.

Every random choice is a function of the seed and of what it is for (the step, the sample), never of
the process that draws it. So workers, processes and resuming do not change the result of a run.
"""

from collections.abc import Iterator

import numpy as np
import torch


def mixed_seed(*parts: int) -> int:
    """A 63-bit seed made of several numbers, e.g. of a seed and a step.

    Different numbers give unrelated random streams.
    """
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator for the augmentation of one sample, in whichever process it is loaded."""
    return np.random.default_rng((seed, epoch, index))


class StepSampler(torch.utils.data.Sampler):
    """Batch sampler over a whole training run.

    It yields a list of (epoch, index) pairs for each step. The order of the images in an epoch
    depends on the seed and the epoch only, and the incomplete last batch of an epoch is dropped. So
    a run that resumes at any step gets the batches it would have had.

    Args:
        length: number of images in the data set.
        batch_size: images in a step, all processes together; a multiple of `world`.
        max_steps: steps of the whole run.
        seed: seed of the order.
        start_step: first step to yield.
        rank: number of this process; it gets the rank-th of `world` equal parts of each batch.
        world: number of processes.
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
        share = self.batch_size // self.world
        order = None
        for step in range(self.start_step, self.max_steps):
            epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
            if order is None or step_of_epoch == 0:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            first = step_of_epoch * self.batch_size + self.rank * share
            yield [(epoch, int(index)) for index in order[first : first + share]]
