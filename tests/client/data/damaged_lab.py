"""Drawn cells, and the ways in which a lab's folder goes wrong. For tests of the check only."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

TYPES = ("eosinophil", "lymphocyte", "monocyte")


def cell(seed: int, side: int = 96) -> Image.Image:
    """A blob with lobes among red cells: enough of a picture to be told from another."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), (232, 226, 228))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.uniform(-0.2, 1.0, 2) * side
        draw.ellipse((x, y, x + side / 3, y + side / 3), fill=(214, 170, 172))
    stain = tuple(int(v) for v in rng.normal((96, 60, 150), 8))
    for _ in range(4):
        x, y = rng.uniform(0.3, 0.4, 2) * side
        width, height = rng.uniform(0.25, 0.4, 2) * side
        draw.ellipse((x, y, x + width, y + height), fill=stain)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    noisy = pixels + rng.normal(0, 3, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def lab(folder: Path, each: int = 12) -> Path:
    """A tidy lab: `each` cells of three types."""
    for number, kind in enumerate(TYPES):
        (folder / kind).mkdir(parents=True)
        for at in range(each):
            cell(1000 * number + at).save(folder / kind / f"{kind}_{at:04}.png")
    return folder
