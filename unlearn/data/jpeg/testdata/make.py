"""Writes the small JPEG files of this folder and prints the sha256 of Pillow's pixels (planar RGB) for jpeg_test.go."""

import hashlib
import io
import pathlib

import numpy as np
from PIL import Image

here = pathlib.Path(__file__).parent
y, x = np.mgrid[0:23, 0:37]
noise = np.random.default_rng(1).integers(0, 60, (23, 37, 3))
rgb = (np.stack([5 * x, 8 * y, 3 * (x + y)], 2) % 196 + noise).astype(np.uint8)
image = Image.fromarray(rgb)


def write(name, image, edit=bytes, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    data = edit(buffer.getvalue())
    (here / name).write_bytes(data)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
    print(f'{{"{name}", "{hashlib.sha256(pixels.tobytes()).hexdigest()}"}},')


def as_ycck(data):  # the Adobe marker's last byte says how the four channels are coded: 0 CMYK, 2 YCCK
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\x02" + data[at + 1 :]


write("420.jpg", image, quality=75)
write("422.jpg", image, quality=90, subsampling="4:2:2")
write("444.jpg", image, quality=95, subsampling="4:4:4")
write("progressive.jpg", image, quality=60, progressive=True)
write("restart.jpg", image, quality=75, restart_marker_blocks=2)
write("grey.jpg", image.convert("L"), quality=75)
write("cmyk.jpg", image.convert("CMYK"), quality=75)
write("ycck.jpg", image.convert("CMYK"), as_ycck, quality=75)
exif = Image.Exif()
exif[0x0112] = 6  # to be turned by a quarter, which nobody does
write("rotated.jpg", image, quality=75, exif=exif)
