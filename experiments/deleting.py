"""An image without the pixels that an explanation names."""

import cv2
import numpy as np

BLUR = 0.15  # of the image's side: what is deleted keeps its mean grey and nothing else


def delete(image: np.ndarray, heat: np.ndarray, share: float) -> np.ndarray:
    """uint8 [S, S, C] without the `share` of its pixels where `heat` [S, S] is highest.

    They become those of the blurred image: few new edges, but what was written there is gone.
    """
    order = np.argsort(-heat, axis=None, kind="stable")
    gone = np.zeros(heat.size, bool)
    gone[order[: round(share * heat.size)]] = True
    blurred = cv2.GaussianBlur(image, (0, 0), BLUR * len(image)).reshape(image.shape)
    return np.where(gone.reshape(*heat.shape, 1), blurred, image)
