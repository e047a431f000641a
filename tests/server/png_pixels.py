"""The pixels of a PNG as the server writes it, for tests that have Python's standard library only."""
import struct
import zlib

BYTES = 3  # of a pixel


class Pixels:
    def __init__(self, width, height, levels):
        self.width, self.height, self.levels = width, height, levels  # levels: RGB, row by row


def chunks(data):
    """(kind, body) of each; every checksum is looked at."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n", f"no PNG: {data[:16]!r}"
    at = 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body, (crc,) = data[at + 8:at + 8 + size], struct.unpack(">I", data[at + 8 + size:at + 12 + size])
        assert zlib.crc32(kind + body) == crc, f"the checksum of {kind} is wrong"
        yield kind, body
        at += 12 + size


def paeth(left, above, corner):
    a, b, c = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
    return left if a <= b and a <= c else above if b <= c else corner


def unfilter(kind, row, above):
    """Turns a row's differences into levels, in place (PNG, third edition, section 9.2)."""
    if kind == 2:
        row[:] = bytes((value + up) & 255 for value, up in zip(row, above))
    elif kind:
        for i, value in enumerate(row):
            left, corner = (row[i - BYTES], above[i - BYTES]) if i >= BYTES else (0, 0)
            guess = {1: lambda: left, 3: lambda: (left + above[i]) // 2, 4: lambda: paeth(left, above[i], corner)}[kind]()
            row[i] = (value + guess) & 255


def decode(data):
    parts = list(chunks(data))
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", parts[0][1])
    assert parts[0][0] == b"IHDR" and parts[-1][0] == b"IEND" and (depth, colour, interlace) == (8, 2, 0), parts[0]
    raw, stride = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT")), width * BYTES
    assert len(raw) == height * (stride + 1), (len(raw), width, height)
    levels, above = bytearray(), bytes(stride)
    for at in range(0, len(raw), stride + 1):
        row = bytearray(raw[at + 1:at + 1 + stride])
        unfilter(raw[at], row, above)
        levels += row
        above = row
    return Pixels(width, height, bytes(levels))


def spread(pixels):
    """The standard deviation of all levels: near 0 for a flat picture."""
    count, mean = len(pixels.levels), sum(pixels.levels) / len(pixels.levels)
    return (sum(value * value for value in pixels.levels) / count - mean * mean) ** .5


def difference(a, b):
    """The mean difference of two pictures of one size, 0 to 255."""
    assert (a.width, a.height) == (b.width, b.height), (a.width, a.height, b.width, b.height)
    return sum(abs(x - y) for x, y in zip(a.levels, b.levels)) / len(a.levels)
