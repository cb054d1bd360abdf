"""The colours in which CAMs are shown."""

import cv2
import numpy as np


def heat_map(picture: np.ndarray, cam: dict[int, np.ndarray]) -> np.ndarray:
    """The strongest CAM of every pixel as a colour over the grey picture, uint8 [H, W, 3].

    Args:
        picture: uint8 [H, W, 3].
        cam: {foreground class: float32 [H, W]}. The colours run from blue (0) to red (1).
    """
    if cam:
        strongest = np.max(list(cam.values()), axis=0)
    else:
        strongest = np.zeros(picture.shape[:2], np.float32)
    levels = (strongest.clip(0, 1) * 255).astype(np.uint8)
    colours_bgr = cv2.applyColorMap(levels, cv2.COLORMAP_JET)
    colours = cv2.cvtColor(colours_bgr, cv2.COLOR_BGR2RGB)
    grey = picture.mean(2, keepdims=True)
    return (0.5 * grey + 0.5 * colours).astype(np.uint8)
