"""A trained segmentation network for pictures of any folder: the DeepLab of `tool.predict`."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from datasets import picture_views
from net import load_net, own_normalisation
from network.class_check import known_classes
from network.device import to_device
from tool.files.checkpoints import config_of, load_checkpoint
from tool.files.prediction_outputs import write_segmentation
from tool.train.precision import fast_inference
from utils.config import prediction_config
from utils.keys import PREDICTION_KEYS
from utils.testing import mean_logits


class SegmentationPredictor:
    """Predictions of any picture, as the segmentation's test.py makes them.

    Args:
        weights: a checkpoint of the segmentation's train.py.
        device: where the network runs.
        amp: what it computes in: off, bf16 or fp16.
        channels_last: channels-last tensors in float32 too.
        scales: factors on the size of a picture; None: TEST_MULTISCALE of the config.
        config_words: the words of --config, see `prediction_config`.
        for_crf: predict probabilities for the dense CRF, and no masks.
    Attributes:
        classes: those of the checkpoint.
        background_score: None; the background is a class like the others.
        description: what the network is, for the user.
        settings: what decides the predictions besides the weights, for the manifest.
        make_views: gives the views of a picture; it can be sent to another process.
        write: the function that writes the files of a picture.
    Raises:
        UserError: the file is missing or damaged, or it does not fit the config.
    """

    write = staticmethod(write_segmentation)
    background_score = None

    def __init__(
        self,
        weights: str,
        device: torch.device,
        amp: str = 'off',
        channels_last: bool = False,
        scales: Sequence[float] | None = None,
        config_words: Sequence[str] = (),
        for_crf: bool = False,
    ):
        self.device = device
        self.for_crf = for_crf
        state = load_checkpoint(weights)
        self.classes = known_classes(state, weights)
        config = prediction_config(weights, config_of(state, weights), config_words)
        del state  # it is read again; otherwise the weights would be in memory twice
        if scales:
            config['TEST_MULTISCALE'] = list(scales)
        net = to_device(load_net(config, weights, self.classes), device).eval()
        config = own_normalisation(config, net)
        self.forward = fast_inference(net, device, amp, channels_last)
        self.description = f'{config["MODEL_NAME"]} over {config["MODEL_BACKBONE"]}'
        self.mirror = config['TEST_FLIP']
        self.settings = {key: config[key] for key in PREDICTION_KEYS}
        self.make_views: Callable[[Image.Image], list[torch.Tensor]] = functools.partial(
            views_of_image, config=config
        )

    def predict(self, views: list[list[torch.Tensor]], size: tuple[int, int]) -> list[np.ndarray]:
        """The masks of pictures of equal size, uint8 [H, W] each.

        With `for_crf` they are probabilities, float32 [C, H, W].

        Args:
            views: what `make_views` gives of each picture.
            size: (H, W) of the pictures.
        """
        logits = mean_logits(self.forward, views, size, self.device, self.mirror)
        if self.for_crf:
            return list(logits.softmax(1).cpu().numpy())
        return list(logits.argmax(1).byte().cpu().numpy())


def views_of_image(image: Image.Image, config: dict) -> list[torch.Tensor]:
    """The views of a PIL picture, see `picture_views`."""
    return picture_views(np.asarray(image), config)
