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


# What each filter guesses of the byte to the left, the one above and the one above that to the left (PNG, third edition, section 9.2).
GUESSES = [lambda left, above, corner: 0, lambda left, above, corner: left, lambda left, above, corner: above,
           lambda left, above, corner: (left + above) // 2, paeth]


def unfiltered(kind, row, above):
    """A row's levels. Both rows begin with a pixel of zeros."""
    guess = GUESSES[kind]
    for i in range(BYTES, len(row) if kind else 0):
        row[i] = (row[i] + guess(row[i - BYTES], above[i], above[i - BYTES])) & 255
    return row


def decode(data):
    parts = list(chunks(data))
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", parts[0][1])
    assert parts[0][0] == b"IHDR" and parts[-1][0] == b"IEND" and (depth, colour, interlace) == (8, 2, 0), parts[0]
    raw, stride = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT")), width * BYTES
    assert len(raw) == height * (stride + 1), (len(raw), width, height)
    levels, above = bytearray(), bytes(BYTES + stride)
    for at in range(0, len(raw), stride + 1):
        above = unfiltered(raw[at], bytearray(BYTES) + raw[at + 1:at + 1 + stride], above)
        levels += above[BYTES:]
    return Pixels(width, height, bytes(levels))


def spread(pixels):
    """The standard deviation of all levels: near 0 for a flat picture."""
    count, mean = len(pixels.levels), sum(pixels.levels) / len(pixels.levels)
    return (sum(value * value for value in pixels.levels) / count - mean * mean) ** .5


def difference(a, b):
    """The mean difference of two pictures of one size, 0 to 255."""
    assert (a.width, a.height) == (b.width, b.height), (a.width, a.height, b.width, b.height)
    return sum(abs(x - y) for x, y in zip(a.levels, b.levels)) / len(a.levels)
