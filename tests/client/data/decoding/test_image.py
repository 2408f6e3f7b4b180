"""Any image file becomes a square of RGB, or an error with its name; cells keep their scale."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.data.decoding.chunk import Geometry
from client.data.decoding.image import quiet, read_rgb, square
from common.errors import DataError
from tests.client.data.pictures import colours, dicom


def gradient(mode: str) -> Image.Image:
    grey = Image.linear_gradient("L").resize((32, 32))
    return grey.convert("RGB").convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "tif"), ("L", "png"), ("P", "png"), ("1", "bmp"), ("CMYK", "jpg"), ("YCbCr", "jpg")],
)
def test_kinds_of_pixel_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    gradient(mode).save(path)
    image = read_rgb(path)
    assert image.mode == "RGB"
    assert image.size == (32, 32)
    assert np.asarray(image)[0].mean() < 40 < 200 < np.asarray(image)[-1].mean()


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    pixels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("image.png", "image.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        np.testing.assert_array_equal(
            np.asarray(read_rgb(tmp_path / name))[..., 0], (pixels >> 8).astype(np.uint8)
        )


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 255)).save(tmp_path / "solid.png")
    assert read_rgb(tmp_path / "solid.png").getpixel((1, 1)) == (10, 20, 30)
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    clear.save(tmp_path / "clear.png")
    assert read_rgb(tmp_path / "clear.png").getpixel((1, 1)) == (255, 255, 255)


def test_other_formats_are_refused_whatever_the_suffix(tmp_path: Path) -> None:
    gradient("P").save(tmp_path / "image.gif")
    (tmp_path / "image.gif").rename(tmp_path / "image.png")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_rgb(tmp_path / "image.png")


def test_a_picture_that_would_fill_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient("RGB").save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with quiet(), pytest.raises(DataError, match=r"huge\.png: cannot be read"):
        read_rgb(tmp_path / "huge.png")


def whole_files() -> list[bytes]:
    contents = []
    for kind, options in (
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("PNG", {}),
        ("JPEG", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("JPEG2000", {}),
    ):
        buffer = io.BytesIO()
        gradient("RGB").save(buffer, kind, **options)
        contents.append(buffer.getvalue())
    with TemporaryDirectory() as folder:
        dicom(Path(folder, "cell"), colours())
        contents.append(Path(folder, "cell").read_bytes())
    return contents


@settings(max_examples=300)
@given(st.sampled_from(whole_files()), st.data())
def test_damage_gives_an_image_or_a_data_error(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)), "kept")])
    for _ in range(data.draw(st.integers(0, 4), "flips") if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder, quiet():
        path = Path(folder, "image.tif")
        path.write_bytes(damaged)
        try:
            assert square(read_rgb(path), 8).size == (8, 8)
        except DataError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("draft", [None, 16])
def test_a_jpeg_decoded_smaller_looks_the_same(tmp_path: Path, draft: int | None) -> None:
    path = tmp_path / "image.jpg"
    Image.linear_gradient("L").convert("RGB").resize((360, 363)).save(path, quality=95)
    image = read_rgb(path, draft)
    assert image.size == ((360, 363) if draft is None else (45, 46))
    small = np.asarray(square(image, 16), dtype=int)
    whole = np.asarray(square(read_rgb(path), 16), dtype=int)
    assert np.abs(small - whole).max() <= 3


def disc(um_per_px: float, field: float, background: int = 230) -> Image.Image:
    """A dark disc of 10 um in the middle of a bright field."""
    size = round(field / um_per_px)
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    inside = np.hypot(x, y) * um_per_px < 5
    return Image.fromarray(np.where(inside, 20, background).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize(
    ("um_per_px", "field"), [(1 / 11.52, 25.0), (0.2, 14.0), (0.05, 40.0), (0.11, 25.3), (0.3, 60)]
)
def test_a_cell_has_one_size_whatever_the_microscope(
    tmp_path: Path, um_per_px: float, field: float
) -> None:
    disc(um_per_px, field).save(tmp_path / "disc.png")
    geometry = Geometry(side=100, um_per_px=um_per_px)
    pixels = np.frombuffer(geometry.read(tmp_path / "disc.png"), np.uint8).reshape(100, 100, 3)
    dark = pixels[..., 0] < 125
    assert dark.sum() == pytest.approx(np.pi * 20**2, rel=0.03)
    y, x = np.nonzero(dark)
    assert (y.mean(), x.mean()) == pytest.approx((49.5, 49.5), abs=0.6)
    assert (pixels[0] == 230).all()
    assert (pixels[:, -1] == 230).all()


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 32), st.floats(0.5, 200))
def test_any_shape_becomes_the_square(width: int, height: int, side: int, field_px: float) -> None:
    image = Image.new("RGB", (width, height), (200, 150, 100))
    for result in (square(image, side), square(image, side, field_px)):
        assert result.size == (side, side)
        assert result.getcolors() == [(side * side, (200, 150, 100))]


@pytest.mark.parametrize("um_per_px", [0.001, 100.0])
def test_a_scale_that_cannot_be_right_is_refused(tmp_path: Path, um_per_px: float) -> None:
    size = (40, 40) if um_per_px < 1 else (400, 400)
    Image.new("RGB", size).save(tmp_path / "cell.png")
    with pytest.raises(DataError, match=r"cell\.png: at um_per_px .* is um_per_px right"):
        Geometry(side=8, um_per_px=um_per_px).read(tmp_path / "cell.png")
