#!/bin/sh
# Pillow 13.0.0 reads colour JPEG 2000 of more than 8 bits a sample as 8 bits, rounds, and lets the
# brightest samples wrap: of 12 bits, 4088 to 4095 become 0, so that the white ground of a smear is
# black wherever it is saturated. The same samples in grey are read as 16 bits and whole.
#
# Seen: RGB 4087 -> 255, 4088 -> 0, 4095 -> 0; expected 255 for each.
# hemofed refuses colour JPEG 2000 above 8 bits (docs/pictures.md).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 imagecodecs==2026.3.6 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys

import imagecodecs
import numpy as np
from PIL import Image

samples = [0, 16, 2048, 4079, 4080, 4087, 4088, 4095]
colour = np.zeros((16, 16, 3), np.uint16)
colour[:] = np.repeat(samples, 2)[None, :, None]
file = imagecodecs.jpeg2k_encode(colour, level=0, bitspersample=12)
assert (imagecodecs.jpeg2k_decode(file) == colour).all(), "the file itself is lossless"
read = np.asarray(Image.open(io.BytesIO(file)))[0, ::2, 0].tolist()
grey = imagecodecs.jpeg2k_encode(colour[..., 0].copy(), level=0, bitspersample=12)
whole = np.asarray(Image.open(io.BytesIO(grey)))[0, ::2].tolist()
print("12-bit samples: ", samples)
print("read in colour: ", read)
print("read in grey:   ", whole)
same = read == [0, 1, 128, 255, 255, 255, 0, 0] and whole == [16 * one for one in samples]
sys.exit(0 if same else "changed: colour JPEG 2000 is read otherwise than was seen")
PYTHON
