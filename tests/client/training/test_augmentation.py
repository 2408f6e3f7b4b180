"""Normalised batches; augmentation that the generator alone decides, image by image."""

import numpy as np
import pytest
import torch
from torch import Tensor

from client.training import augmentation
from client.training.augmentation import augment, draw_views
from common.models.pixels import MEAN, STD, to_tensor


def views_of(batch: Tensor, seed: int) -> Tensor:
    return augment(batch, draw_views(len(batch), generator(seed)))


def noise(count: int = 6, side: int = 8) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return to_tensor(pixels)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_to_tensor_normalises_by_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)
    batch = to_tensor(pixels)
    assert batch.shape == (3, 3, 5, 5)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert torch.equal(to_tensor(torch.from_numpy(pixels)), batch)
    assert to_tensor(pixels[:0]).shape == (0, 3, 5, 5)


def test_a_read_only_map_is_no_warning() -> None:
    pixels = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    assert to_tensor(pixels).shape == (2, 3, 4, 4)


def test_the_generator_decides_and_global_state_does_not() -> None:
    batch = noise()
    first = views_of(batch, 1)
    torch.rand(7)
    before = torch.get_rng_state()
    assert torch.equal(first, views_of(batch, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, views_of(batch, 2))
    assert torch.equal(batch, noise())


def test_an_image_depends_on_no_other_image() -> None:
    batch = noise()
    other = batch.clone()
    other[1:] = 0
    torch.testing.assert_close(
        views_of(batch, 5)[0],
        views_of(other, 5)[0],
        rtol=0,
        atol=1e-6,
    )


def test_all_eight_symmetries_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GAIN", "SATURATION", "CONTRAST", "BRIGHTNESS"):
        monkeypatch.setattr(augmentation, name, 0.0)
    image = noise(1)
    views = augment(image.expand(200, -1, -1, -1), draw_views(200, generator(0)))
    faces = [image[0], image[0].flip(2)]
    symmetries = [torch.rot90(face, k, (1, 2)) for face in faces for k in range(4)]
    found = [
        [torch.allclose(view, symmetry, atol=1e-5) for symmetry in symmetries] for view in views
    ]
    counts = np.sum(found, axis=0)
    assert (np.sum(found, axis=1) == 1).all()
    assert counts.min() >= 10


def test_colours_change_a_little_and_are_the_affine_map_they_say() -> None:
    draws = torch.rand((4, 6), generator=generator(3))
    batch = noise(4)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    colours = batch * std + mean
    spread = 2 * draws[:, :, None, None] - 1
    grey = (colours * torch.tensor(augmentation.LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    saturation, contrast = 1 + 0.2 * spread[:, 3:4], 1 + 0.15 * spread[:, 4:5]
    expected = saturation * colours + (1 - saturation) * grey
    expected = contrast * (1 + 0.08 * spread[:, :3]) * expected
    expected = expected + 0.5 * (1 - contrast) + 0.05 * spread[:, 5:6]
    found = augmentation._recolour(batch, draws) * std + mean
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert 0.005 < (found - colours).abs().mean() < 0.1


def test_an_empty_batch_stays_empty() -> None:
    assert augment(noise(0), draw_views(0, generator(0))).shape == (0, 3, 8, 8)
