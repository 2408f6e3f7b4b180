"""Every form of picture is read as what its file says, or refused with what is in it."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom import uid

from client.data.decoding.formats import FormError
from client.data.decoding.image import quiet, read_rgb
from common.errors import DataError
from tests.client.data.pictures import Array, as_rgb, colours, dicom, eight, grey, packed_tiff

Write = Callable[[Path], None]
RGB8, RGB16 = colours(), colours(16)
PARTS = np.moveaxis(RGB16, -1, 0)
ALPHA = np.where(np.arange(32) < 16, 255, 100)[None].repeat(24, 0).astype(np.uint8)
ON_WHITE = np.round((RGB8 * (ALPHA / 255)[..., None]) + 255 * (1 - ALPHA / 255)[..., None])


GREY = {"photometric": "minisblack"}
RLE: dict[str, Any] = {
    "rows": 24,
    "columns": 32,
    "samples_per_pixel": 3,
    "bits_allocated": 8,
    "bits_stored": 8,
    "pixel_representation": 0,
    "photometric_interpretation": "RGB",
    "number_of_frames": 1,
    "planar_configuration": 0,
}


def read(write: Write, path: Path) -> Array:
    write(path)
    with quiet():
        return np.asarray(read_rgb(path)).astype(np.int64)


def tif(data: Array, **options: Any) -> Write:
    return lambda path: tifffile.imwrite(path, data, **({"photometric": "rgb"} | options))


def tag(code: int, dtype: str, *values: int) -> dict[str, Any]:
    held: int | tuple[int, ...] = values if len(values) > 1 else values[0]
    return {"extratags": [(code, dtype, len(values), held, True)]}


def pil(image: Image.Image, form: str, **options: Any) -> Write:
    return lambda path: image.save(path, form, **options)


def content(data: bytes) -> Write:
    return lambda path: path.write_bytes(data) and None


def png(pixels: Array, kind: int, *chunks: tuple[bytes, bytes]) -> Write:
    """A PNG written by hand, of 8- or 16-bit samples, with chunks before its pixels."""
    depth = 8 * pixels.dtype.itemsize
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", packed), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return content(b"\x89PNG\r\n\x1a\n" + data)


def transparent(pixels: Array, colour: tuple[int, ...]) -> Array:
    return np.where((pixels == colour).all(-1, keepdims=True), 255, pixels)


def palette(bits: int) -> Array:
    """(3, 256): the table of a picture that is its own negative, as a TIFF keeps it."""
    ramp = np.arange(256)[::-1]
    table: Array = np.stack([ramp, ramp // 2, ramp // 3]) * (257 if bits == 16 else 1)
    return table.astype(np.uint16)


NEGATIVE = np.stack([255 - grey(), (255 - grey()) // 2, (255 - grey()) // 3], -1)

READ: dict[str, tuple[Write, Array]] = {
    "tiff rgb": (tif(RGB8), RGB8),
    "tiff grey": (tif(grey(), photometric="minisblack"), as_rgb(grey())),
    "tiff big": (tif(RGB8, bigtiff=True), RGB8),
    "tiff big-endian 16-bit": (tif(RGB16, byteorder=">"), eight(RGB16, 16)),
    "tiff planar 8-bit": (tif(np.moveaxis(RGB8, -1, 0), planarconfig="separate"), RGB8),
    "tiff planar 16-bit": (tif(PARTS, planarconfig="separate"), eight(RGB16, 16)),
    "tiff planar 16-bit in strips": (
        tif(PARTS, planarconfig="separate", rowsperstrip=5, compression="zlib"),
        eight(RGB16, 16),
    ),
    "tiff 16-bit grey": (tif(grey(16), photometric="minisblack"), as_rgb(eight(grey(16), 16))),
    "tiff min-is-white": (tif(grey(), photometric="miniswhite"), as_rgb(255 - grey())),
    "tiff min-is-white 16-bit": (
        tif(grey(16), photometric="miniswhite"),
        as_rgb(255 - eight(grey(16), 16)),
    ),
    **{
        f"tiff {bits}-bit grey": (
            lambda path, bits=bits: packed_tiff(path, grey(bits), bits),
            as_rgb(eight(grey(bits), bits)),
        )
        for bits in (1, 2, 4, 8, 10, 12, 14)
    },
    **{
        f"tiff max sample of {bits} bits": (
            tif(colours(bits), **tag(281, "H", *[2**bits - 1] * 3)),
            eight(colours(bits), bits),
        )
        for bits in (10, 12, 14)
    },
    "ome significant bits": (
        tif(
            grey(12),
            photometric="minisblack",
            description='<OME><Pixels SizeC="1" SizeZ="1" SizeT="1" SignificantBits="12"/></OME>',
        ),
        as_rgb(eight(grey(12), 12)),
    ),
    "ome rgb": (
        lambda path: tifffile.imwrite(path, RGB8, ome=True, photometric="rgb"),
        RGB8,
    ),
    "fiji rgb": (lambda path: tifffile.imwrite(path, RGB8, imagej=True), RGB8),
    "tiff palette": (tif(grey(), photometric="palette", colormap=palette(16)), NEGATIVE),
    "tiff palette of 8 bits": (tif(grey(), photometric="palette", colormap=palette(8)), NEGATIVE),
    "tiff tiles": (tif(RGB8, tile=(16, 16), compression="lzw"), RGB8),
    **{
        f"tiff {how}": (tif(RGB8, compression=how, predictor=how != "packbits"), RGB8)
        for how in ("lzw", "zlib", "packbits", "zstd", "lzma")
    },
    "tiff opaque": (tif(np.dstack([RGB8, np.full_like(grey(), 255)]), extrasamples=[2]), RGB8),
    "tiff alpha": (tif(np.dstack([RGB8, ALPHA]), extrasamples=["unassalpha"]), ON_WHITE),
    "tiff premultiplied": (
        tif(
            np.dstack([np.round(RGB8 * (ALPHA / 255)[..., None]).astype(np.uint8), ALPHA]),
            extrasamples=["assocalpha"],
        ),
        ON_WHITE,
    ),
    "tiff grey and alpha": (
        tif(np.dstack([grey(), ALPHA]), extrasamples=["unassalpha"], **GREY),
        np.round(as_rgb(grey()) * (ALPHA / 255)[..., None] + 255 * (1 - ALPHA / 255)[..., None]),
    ),
    "tiff 16-bit alpha": (
        tif(
            np.dstack([RGB16, np.full((24, 32), 65535, np.uint16)]),
            extrasamples=["unassalpha"],
            planarconfig="contig",
        ),
        eight(RGB16, 16),
    ),
    "tiff turned": (tif(RGB8, **tag(274, "H", 6)), np.rot90(RGB8, -1)),
    "png rgb": (pil(Image.fromarray(RGB8), "PNG"), RGB8),
    "png grey 16-bit": (png(grey(16)[..., None], 0), as_rgb(eight(grey(16), 16))),
    "png rgb 16-bit": (png(RGB16, 2), eight(RGB16, 16)),
    "png transparent colour": (
        png(RGB8, 2, (b"tRNS", struct.pack(">3H", *map(int, RGB8[3, 4])))),
        transparent(RGB8, tuple(RGB8[3, 4])),
    ),
    "png transparent grey": (
        png(grey()[..., None], 0, (b"tRNS", struct.pack(">H", int(grey()[0, 9])))),
        transparent(as_rgb(grey()), (grey()[0, 9],) * 3),
    ),
    "png alpha": (pil(Image.fromarray(np.dstack([RGB8, ALPHA])), "PNG"), ON_WHITE),
    "bmp": (pil(Image.fromarray(RGB8), "BMP"), RGB8),
    "webp": (pil(Image.fromarray(RGB8), "WEBP", lossless=True), RGB8),
    "webp alpha": (
        pil(Image.fromarray(np.dstack([RGB8, ALPHA])), "WEBP", lossless=True, exact=True),
        ON_WHITE,
    ),
    "jpeg 2000": (pil(Image.fromarray(RGB8), "JPEG2000", irreversible=False), RGB8),
    "jpeg 2000 grey 12-bit": (
        content(imagecodecs.jpeg2k_encode(grey(12), level=0, bitspersample=12)),
        as_rgb(eight(grey(12), 12)),
    ),
    "dicom rgb": (lambda path: dicom(path, RGB8), RGB8),
    "dicom planes": (
        lambda path: dicom(path, np.moveaxis(RGB8, -1, 0), PlanarConfiguration=1),
        RGB8,
    ),
    "dicom 16-bit": (lambda path: dicom(path, RGB16, stored=16), eight(RGB16, 16)),
    "dicom monochrome 1": (
        lambda path: dicom(path, grey(), photometric="MONOCHROME1"),
        as_rgb(255 - grey()),
    ),
    **{
        f"dicom grey {bits}-bit": (
            lambda path, bits=bits: dicom(path, grey(bits), photometric="MONOCHROME2", stored=bits),
            as_rgb(eight(grey(bits), bits)),
        )
        for bits in (8, 10, 12, 14, 16)
    },
    **{
        f"dicom {syntax.name}": (
            lambda path, syntax=syntax: dicom(path, RGB8, syntax=syntax),
            RGB8,
        )
        for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian)
    },
    "dicom rle": (
        lambda path: dicom(
            path,
            [pydicom.pixels.encoders.RLELosslessEncoder.encode(RGB8, **RLE)],
            syntax=uid.RLELossless,
        ),
        RGB8,
    ),
    "dicom 8 bits in 16": (
        lambda path: dicom(
            path,
            grey().astype(np.uint16),
            photometric="MONOCHROME2",
            BitsAllocated=16,
        ),
        as_rgb(grey()),
    ),
    "dicom palette": (
        lambda path: dicom(
            path,
            grey(),
            photometric="PALETTE COLOR",
            **{
                f"{name}PaletteColorLookupTable{part}": value
                for name, row in zip(("Red", "Green", "Blue"), palette(16), strict=True)
                for part, value in (("Descriptor", [256, 0, 16]), ("Data", row.tobytes()))
            },
        ),
        NEGATIVE,
    ),
    "dicom slide of one frame": (
        lambda path: dicom(
            path,
            RGB8,
            kind=uid.VLWholeSlideMicroscopyImageStorage,
            ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        ),
        RGB8,
    ),
    "dicom jpeg 2000": (
        lambda path: dicom(
            path,
            [imagecodecs.jpeg2k_encode(RGB8, level=0, codecformat="j2k", mct=True)],
            syntax=uid.JPEG2000Lossless,
            photometric="YBR_RCT",
        ),
        RGB8,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_the_file_says_is_what_is_read(tmp_path: Path, name: str) -> None:
    write, expected = READ[name]
    found = read(write, tmp_path / "cell")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1, f"up to {np.abs(found - expected).max()} levels off"
    assert (found == expected).all() or "alpha" in name or "premultiplied" in name


SMOOTH = np.asarray(Image.fromarray(RGB8[:6, :8]).resize((32, 24), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "write",
    [
        pil(Image.fromarray(SMOOTH), "JPEG", quality=95, subsampling=0),
        pil(Image.fromarray(SMOOTH), "AVIF", quality=100),
        tif(SMOOTH, compression="jpeg", compressionargs={"level": 95}),
        pil(Image.fromarray(SMOOTH), "TIFF", compression="jpeg", quality=95),
        lambda path: dicom(
            path,
            [imagecodecs.jpeg_encode(SMOOTH, level=95)],
            syntax=uid.JPEGBaseline8Bit,
            photometric="YBR_FULL_422",
        ),
    ],
    ids=["jpeg", "avif", "tiff jpeg", "tiff jpeg of libtiff", "dicom jpeg"],
)
def test_lossy_forms_are_near(tmp_path: Path, write: Write) -> None:
    assert np.abs(read(write, tmp_path / "cell") - SMOOTH).max() <= 12


def test_the_picture_of_a_stack_that_is_one_is_read(tmp_path: Path) -> None:
    """A smaller copy before it, marked as such, is none."""
    with tifffile.TiffWriter(tmp_path / "cell.tif") as file:
        file.write(RGB8[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(RGB8, photometric="rgb")
    assert (np.asarray(read_rgb(tmp_path / "cell.tif")) == RGB8).all()


def pages(*data: Array, **options: Any) -> Write:
    def write(path: Path) -> None:
        with tifffile.TiffWriter(path) as file:
            for one in data:
                file.write(one, **({"photometric": "rgb", "metadata": None} | options))

    return write


def frames(form: str, **options: Any) -> Write:
    image = Image.fromarray(RGB8)
    more = [Image.fromarray(255 - RGB8), Image.fromarray(RGB8[::-1])]
    return pil(image, form, save_all=True, append_images=more, **options)


CHANNELS = np.moveaxis(RGB8, -1, 0)
REFUSED: dict[str, tuple[Write, str]] = {
    "z-stack": (pages(RGB8, RGB8, RGB8), "holds 3 pictures, .* 8-bit RGB TIFF or PNG"),
    "thumbnail first": (pages(RGB8[::4, ::4], RGB8), "holds 2 pictures"),
    "many pages": (pages(*[RGB8] * 70), r"holds 65 pictures \(or more\)"),
    "ome channels": (
        lambda path: tifffile.imwrite(path, CHANNELS, ome=True, metadata={"axes": "CYX"}, **GREY),
        r"holds 3 pictures \(3 channels\)",
    ),
    "ome channel of a file each": (
        tif(
            grey(),
            description='<OME><Pixels ID="1" SizeC="3" SizeZ="1" SizeT="1"/></OME>',
            **GREY,
        ),
        r"holds 3 pictures \(in all its files: 3 channels\)",
    ),
    "fiji channels": (
        lambda path: tifffile.imwrite(path, CHANNELS, imagej=True, metadata={"axes": "CYX"}),
        r"holds 3 pictures \(3 channels\).*Image > Type > RGB Color",
    ),
    "fiji stack of one page": (
        tif(grey(), description="ImageJ=1.54\nimages=5\nslices=5\n", metadata=None, **GREY),
        r"holds 5 pictures \(5 slices\)",
    ),
    "apng": (frames("PNG"), "holds 3 pictures"),
    "animated webp": (frames("WEBP"), "holds 3 pictures"),
    "avif sequence": (frames("AVIF"), "holds 3 pictures"),
    "mpo": (frames("MPO"), "holds 3 pictures"),
    "dicom frames": (
        lambda path: dicom(path, np.stack([RGB8, RGB8]), frames=2),
        r"holds 2 pictures \(frames\)",
    ),
    "12 bits in 16 tiff": (tif(grey(12), **GREY), "its 16-bit samples use less than 6% of"),
    "14 bits in 16 tiff": (tif(colours(14)), "its 16-bit samples use less than 25% of"),
    "12 bits in 16 png grey": (png(grey(12)[..., None], 0), "its 16-bit samples use less"),
    "12 bits in 16 png": (png(colours(12), 2), "its 16-bit samples use less"),
    "12 bits in 16 jpeg 2000": (
        content(imagecodecs.jpeg2k_encode(grey(12), level=0)),
        "its 16-bit samples use less",
    ),
    "12-bit colour jpeg 2000": (
        content(imagecodecs.jpeg2k_encode(colours(12), level=0, bitspersample=12)),
        "is JPEG 2000 in colours of 12 bits",
    ),
    "10 bits in 12 dicom": (
        lambda path: dicom(path, grey(10), photometric="MONOCHROME2", stored=12),
        "its 12-bit samples use less than 25%",
    ),
    "more than the bits hold": (
        tif(grey(16), **GREY, **tag(281, "H", 4095)),
        "samples have 12 bits, and one of them is 65,535",
    ),
    "transparent everywhere tiff": (
        tif(np.dstack([RGB8, 0 * grey()]), extrasamples=[2]),
        "no pixel of it is opaque .* without alpha",
    ),
    "transparent everywhere png": (
        pil(Image.fromarray(np.dstack([RGB8, 0 * grey()])), "PNG"),
        "no pixel of it is opaque",
    ),
    "transparent everywhere webp": (
        pil(Image.fromarray(np.dstack([RGB8, 0 * grey() + 9])), "WEBP", exact=True, lossless=True),
        "no pixel of it is opaque",
    ),
    "transparent 16-bit colour": (
        png(RGB16, 2, (b"tRNS", struct.pack(">3H", 1, 2, 3))),
        "a colour of 16-bit samples is to be transparent",
    ),
    "a fourth sample of no said use": (
        tif(np.dstack([RGB8, ALPHA]), extrasamples=[0]),
        "one sample a pixel more than its colours, of no said use",
    ),
    "five samples": (
        tif(np.dstack([RGB8, ALPHA, ALPHA]), extrasamples=[0, 0]),
        "5 samples a pixel",
    ),
    "float": (tif(RGB8.astype(np.float32)), "samples are of 32 bits, IEEEFP; .* 8-bit RGB"),
    "signed": (tif(RGB8.astype(np.int16)), "samples are of 16 bits, INT"),
    "32-bit": (tif(RGB8.astype(np.uint32)), "samples are of 32 bits, UINT"),
    "cmyk": (tif(np.dstack([RGB8, ALPHA]), photometric="separated"), "colours are SEPARATED"),
    "cielab": (tif(RGB8, photometric="cielab"), "colours are CIELAB"),
    "raw": (tif(grey(16), photometric="cfa"), "colours are CFA"),
    "gel": (tif(grey(), **GREY, **tag(33445, "I", 2)), "is Molecular Dynamics GEL"),
    "jpeg xl tiff": (tif(RGB8, compression="jpegxl"), "compressed as JPEGXL"),
    "webp tiff": (tif(RGB8, compression="webp"), "compressed as WEBP"),
    "gif": (pil(Image.fromarray(grey()), "GIF"), "cannot be read as an image: it is GIF"),
    "jpeg xl": (content(imagecodecs.jpegxl_encode(RGB8)), "it is JPEG XL"),
    "czi": (content(b"ZISRAWFILE" + bytes(500)), "it is Zeiss CZI"),
    "heif": (content(b"\0\0\0\x18ftypheic" + bytes(500)), "it is HEIF"),
    "dicom ct": (
        lambda path: dicom(path, RGB8, kind=uid.CTImageStorage),
        "is DICOM, CT Image Storage, and no picture through a microscope",
    ),
    "dicom slide label": (
        lambda path: dicom(
            path,
            RGB8,
            kind=uid.VLWholeSlideMicroscopyImageStorage,
            ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"],
        ),
        "shows the LABEL of a slide",
    ),
    "dicom signed": (
        lambda path: dicom(
            path, grey(12), photometric="MONOCHROME2", stored=12, PixelRepresentation=1
        ),
        "samples are 12 bits, signed, in 16",
    ),
    "dicom high bit": (
        lambda path: dicom(path, grey(12) * 16, photometric="MONOCHROME2", stored=12, HighBit=15),
        "samples of 12 bits begin at bit 15",
    ),
    "dicom deflated": (
        lambda path: dicom(path, RGB8, syntax=uid.DeflatedExplicitVRLittleEndian),
        "in the transfer syntax Deflated",
    ),
    "dicom jpeg-ls": (
        lambda path: dicom(path, [b"\xff\xd8"], syntax=uid.JPEGLSLossless),
        "in the transfer syntax JPEG-LS",
    ),
    "dicom 12-bit colour jpeg 2000": (
        lambda path: dicom(
            path,
            [imagecodecs.jpeg2k_encode(colours(12), level=0, codecformat="j2k", bitspersample=12)],
            syntax=uid.JPEG2000Lossless,
            stored=12,
        ),
        "is colour of 12 bits, JPEG 2000",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_one_meaning_is_refused_with_what_is_in_it(tmp_path: Path, name: str) -> None:
    write, message = REFUSED[name]
    write(tmp_path / "cell.tif")
    with quiet(), pytest.raises(FormError, match=rf"cell\.tif: .*{message}") as caught:
        read_rgb(tmp_path / "cell.tif")
    assert "export" in str(caught.value)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (1, RGB8),
        (2, RGB8[:, ::-1]),
        (3, RGB8[::-1, ::-1]),
        (4, RGB8[::-1]),
        (5, RGB8.transpose(1, 0, 2)),
        (6, np.rot90(RGB8, -1)),
        (7, RGB8[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(RGB8)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_upright(tmp_path: Path, form: str, turn: int, expected: Array) -> None:
    exif = Image.Exif()
    exif[274] = turn
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    write = tif(RGB8, **tag(274, "H", turn))
    if form != "TIFF":
        write = pil(Image.fromarray(RGB8), form, exif=exif, **options)
    assert (read(write, tmp_path / "cell") == expected).all()


def test_a_colour_profile_changes_no_pixel(tmp_path: Path) -> None:
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for form in ("PNG", "TIFF"):
        pil(Image.fromarray(RGB8), form, icc_profile=lab)(tmp_path / form)
        assert (np.asarray(read_rgb(tmp_path / form)) == RGB8).all()


def holed(path: Path, change: Callable[[list[int], list[int]], None], **options: Any) -> None:
    """A TIFF of several strips whose offsets or sizes are changed."""
    tif(RGB8, rowsperstrip=6, **options)(path)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages.first
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        change(offsets, counts)
        page.tags[273].overwrite(offsets)
        page.tags[279].overwrite(counts)


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_missing_strip_is_no_black_one(
    tmp_path: Path, compression: str | None, place: int
) -> None:
    def change(offsets: list[int], counts: list[int]) -> None:
        offsets[place] = counts[place] = 0

    holed(tmp_path / "cell.tif", change, compression=compression)
    with pytest.raises(DataError, match="missing or cut short"):
        read_rgb(tmp_path / "cell.tif")


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "jpeg", "zstd", "lzma"])
def test_a_strip_cut_short_is_no_grey_one(tmp_path: Path, compression: str) -> None:
    def change(offsets: list[int], counts: list[int]) -> None:
        counts[-1] = counts[-1] * 2 // 3

    holed(tmp_path / "cell.tif", change, compression=compression)
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_rgb(tmp_path / "cell.tif")


HUGE = 60_000


def bombs() -> dict[str, Write]:
    small = io.BytesIO()
    Image.new("RGB", (64, 64)).save(small, "JPEG")
    jpeg = small.getvalue()
    frame = jpeg.index(b"\xff\xc0") + 5
    wide = jpeg[:frame] + struct.pack(">HH", HUGE, HUGE) + jpeg[frame + 4 :]

    def in_tiff(path: Path) -> None:
        tif(RGB8, compression="jpeg")(path)
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            start, count = page.dataoffsets[0], page.databytecounts[0]
        whole = bytearray(path.read_bytes())
        at = whole.index(b"\xff\xc0", start, start + count) + 5
        whole[at : at + 4] = struct.pack(">HH", HUGE, HUGE)
        path.write_bytes(whole)

    def tiff_of(width: int, height: int, **options: Any) -> Write:
        def write(path: Path) -> None:
            tif(RGB8, **options)(path)
            with tifffile.TiffFile(path, mode="r+b") as file:
                tags = file.pages.first.tags
                tags["TileWidth" if options else "ImageWidth"].overwrite(width)
                tags["TileLength" if options else "ImageLength"].overwrite(height)

        return write

    return {
        "jpeg": content(wide),
        "tiff": tiff_of(HUGE, HUGE),
        "tiff of a huge tile": tiff_of(HUGE, HUGE, tile=(16, 16), compression="zlib"),
        "jpeg in tiff": in_tiff,
        "dicom": lambda path: dicom(path, RGB8, shape=(HUGE, HUGE)),
        "jpeg in dicom": lambda path: dicom(
            path, [wide], syntax=uid.JPEGBaseline8Bit, photometric="YBR_FULL_422"
        ),
    }


@pytest.mark.parametrize("name", bombs())
def test_no_room_is_taken_for_what_a_small_file_claims(tmp_path: Path, name: str) -> None:
    bombs()[name](tmp_path / "cell")
    tracemalloc.start()
    try:
        with quiet(), pytest.raises(DataError):
            read_rgb(tmp_path / "cell")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_of_a_patient_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = pydicom.dcmread

    def spy(*words: Any, **more: Any) -> pydicom.Dataset:
        found = whole(*words, **more)
        seen.extend(element.keyword for element in found)
        return found

    monkeypatch.setattr(pydicom, "dcmread", spy)
    dicom(tmp_path / "cell.dcm", RGB8)
    read_rgb(tmp_path / "cell.dcm")
    assert "PixelData" in seen and "PatientName" not in seen


@pytest.mark.parametrize("chain", [1, 300])
def test_pages_that_lead_back_come_to_an_end(tmp_path: Path, chain: int) -> None:
    pages(*[RGB8] * chain)(tmp_path / "cell.tif")
    content = bytearray((tmp_path / "cell.tif").read_bytes())
    at = first = struct.unpack_from("<I", content, 4)[0]
    while at:
        (entries,) = struct.unpack_from("<H", content, at)
        link = at + 2 + 12 * entries
        (at,) = struct.unpack_from("<I", content, link)
    struct.pack_into("<I", content, link, first)
    (tmp_path / "cell.tif").write_bytes(content)
    with pytest.raises(DataError) if chain > 1 else nullcontext():
        assert (np.asarray(read_rgb(tmp_path / "cell.tif")) == RGB8).all()


@pytest.mark.parametrize("form", ["JPEG", "AVIF"])
@pytest.mark.parametrize("draft", [None, 8])
def test_a_lossy_picture_is_turned_upright(tmp_path: Path, form: str, draft: int | None) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "cell"
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[:, None], 40, axis=1)
    Image.fromarray(as_rgb(ramp)).save(path, form, exif=exif, quality=95)
    image = read_rgb(path, draft)
    assert image.width > image.height
    row = np.asarray(image)[image.height // 2, :, 0].astype(int)
    assert row[0] > 240 and row[-1] < 15
