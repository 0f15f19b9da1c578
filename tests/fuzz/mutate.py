"""Damage to files: what disks, broken downloads and ill will do to bytes; all of it follows from a generator."""

import struct
import zlib
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def truncate(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def flip_bits(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.choice((1, 1, 1, 2, 8)))):
        changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(data: bytes, rng: Rng) -> bytes:
    """A block of a file that never reached the disk, or that holds another file's bytes."""
    begin = int(rng.integers(len(data)))
    length = min(len(data) - begin, int(rng.choice((1, 4, 64, 512))))
    block = bytes(length) if rng.random() < 0.5 else rng.bytes(length)
    return data[:begin] + block + data[begin + length :]


def cut_out(data: bytes, rng: Rng) -> bytes:
    begin = int(rng.integers(len(data)))
    return data[:begin] + data[begin + int(rng.choice((1, 2, 16, 256))) :]


def repeat(data: bytes, rng: Rng) -> bytes:
    begin = int(rng.integers(len(data)))
    return data[:begin] + data[begin : begin + int(rng.choice((1, 4, 100)))] + data[begin:]


def extreme_number(data: bytes, rng: Rng) -> bytes:
    """A field of the header that says 0, the largest value or a negative one."""
    size, order = int(rng.choice((1, 2, 4))), rng.choice(("<", ">"))
    value = int(rng.choice(_EXTREMES)) & (1 << 8 * size) - 1
    place = int(rng.integers(min(len(data), 400))) if rng.random() < 0.7 else int(rng.integers(len(data)))
    packed = struct.pack(f"{order}{'BHI'[size // 2]}", value)
    return (data[:place] + packed + data[place + size :])[: len(data)]


def append(data: bytes, rng: Rng) -> bytes:
    return data + rng.bytes(int(rng.choice((1, 100))))


MUTATIONS: dict[str, Callable[[bytes, Rng], bytes]] = {
    mutation.__name__: mutation
    for mutation in (truncate, flip_bits, overwrite, cut_out, repeat, extreme_number, append)
}


def with_checksums(png: bytes) -> bytes:
    """A damaged PNG whose chunks have right checksums again: what only a decoder can find."""
    position, mended = 8, bytearray(png)
    while position + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, position)
        end = position + 12 + length
        if end > len(mended):
            break
        struct.pack_into(">I", mended, end - 4, zlib.crc32(mended[position + 4 : end - 4]))
        position = end
    return bytes(mended)
