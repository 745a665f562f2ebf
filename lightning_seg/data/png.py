"""What a PNG file says of itself, without decoding it."""

import struct
import zlib
from collections.abc import Iterator

GREY, RGB = 0, 2  # PNG's numbers of the kinds of pixels
PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"bKGD", b"cHRM", b"gAMA", b"pHYs", b"sRGB", b"tIME"}


def plain_size(png: bytes, pixels: int) -> tuple[int, int] | None:
    """Width and height of a PNG of 8 bits without transparency, rotation or texts; None for any other file.

    Args:
        png: Content of the file.
        pixels: `GREY` or `RGB`, the kind it must be of.
    """
    width, height, depth, color = struct.unpack_from(">IIBB", png.ljust(26), 16)
    if (depth, color) != (8, pixels) or not PLAIN_CHUNKS.issuperset(name for name, _ in chunks(png)):
        return None
    return width, height


def chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The names of a PNG's chunks, and where each begins."""
    at = 8
    while at + 8 <= len(data):
        yield data[at + 4 : at + 8], at
        (length,) = struct.unpack_from(">I", data, at)
        at += length + 12


def is_whole(png: bytes) -> bool:
    """Whether the checksums of all chunks that make the picture are right, up to the one that ends it."""
    for name, at in chunks(png):
        if name[0] & 32:  # text, time and the like
            continue
        (length,) = struct.unpack_from(">I", png, at)
        content, checksum = png[at + 4 : at + 8 + length], png[at + 8 + length : at + 12 + length]
        if zlib.crc32(content).to_bytes(4, "big") != checksum:
            return False
        if name == b"IEND":
            return True
    return False
