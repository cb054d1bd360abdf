"""What this project adds to the PCM: the gate and the lifted class maps."""

import torch

from network.cam_net import pcm_input
from network.pcm_additions import fill_empty, gate, lift
from recipe import normal


def test_a_gated_pcm_knows_the_named_classes_only():
    cam = normal('cam', 2, 21, 6, 7)
    maps = pcm_input(gate(cam, torch.tensor([3, 7])), 0)
    assert (maps[:, 1:].sum(1) > 0).any() and (maps[:, [1, 2, 20]] == 0).all()
    # the published rule on the named classes' maps alone
    named = pcm_input(cam[:, [0, 3, 7]], 0)
    assert torch.equal(maps[:, [0, 3, 7]], named)


def test_a_lifted_class_is_seen_where_it_is_positive_nowhere():
    cam = normal('cam', 2, 21, 6, 7)
    cam[:, [3, 5]] -= 100
    lifted = lift(cam.bfloat16(), torch.tensor([3]))
    kept = [c for c in range(21) if c != 3]
    assert lifted.dtype == torch.float32
    assert torch.equal(lifted[:, kept], cam.bfloat16().float()[:, kept])
    assert (lifted[:, 3].amin((1, 2)) == 0).all()
    maps = pcm_input(lifted, 0)
    assert (maps[:, 3].amax((1, 2)) > 0.99).all() and (maps[:, 5] == 0).all()
    assert (pcm_input(cam, 0)[:, 3] == 0).all()


def test_only_empty_maps_are_inferred_again():
    maps = torch.tensor([[[0.0, -1.0]], [[0.5, 0.0]], [[-2.0, -2.0]]])
    cam = normal('cam', 1, 21, 6, 7)
    seen = []

    def infer(change_maps):
        seen.append(change_maps(cam))
        return torch.full((3, 1, 2), 9.0)

    filled = fill_empty(maps, torch.tensor([4, 8, 20]), infer)
    assert torch.equal(filled[1], maps[1]) and (filled[[0, 2]] == 9).all()
    # empty classes lifted, the other one as it is, absent ones out
    assert (seen[0][0, [4, 20]].amin((1, 2)) == 0).all()
    assert torch.equal(seen[0][0, 8], cam[0, 8])
    assert (seen[0][0, [0, 1, 19]] == 0).all()


def test_nothing_is_inferred_again_without_empty_maps():
    maps = torch.ones(2, 3, 3)
    assert fill_empty(maps, torch.tensor([4, 8]), infer=None) is maps
