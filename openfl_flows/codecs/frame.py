"""The frame: one bucket's payload behind a header that says what it is, with checksums.

Everything is little-endian, and every header is 512 bytes, so that the payload begins at a
multiple of 64 and its values can be views of a mapped file or of a message:

======  =====  ==========  =======================================================================
offset  bytes  field       meaning
======  =====  ==========  =======================================================================
0       8      magic       ``OFLframe``
8       2      version     1
10      2      flags       bit 0: the payload is stored as one zstd frame; others 0
12      4      part        number of the bucket, from 0
16      4      parts       number of buckets
20      4      payload     CRC-32 of the payload as it is stored
24      8      round       number of the round
32      8      size        elements of the bucket
40      8      stored      bytes of the payload as it is stored: what follows the header
48      8      num_bytes   bytes of the payload
56      32     spec        SHA-256 of the Spec of what travels
88      32     reference   SHA-256 of the model that values are relative to, zeros: none
120     32     result      SHA-256 of the model that comes out, zeros: not said
152     32     codec       name of the codec, ASCII, filled up with zeros
184     16     dtype       element type of the bucket, ASCII, filled up with zeros
200     256    sender      name of the sender, UTF-8, filled up with zeros
456     52     reserved    zeros
508     4      header      CRC-32 of the 508 bytes before it
512     ...    the payload
======  =====  ==========  =======================================================================

A receiver builds the header that it expects from what it knows itself, and knows the payload's
bytes from the codec. So it compares and never believes: nothing is allocated from a size that a
frame declares. Magic and version say where the header's checksum is; it is verified before any
other field is looked at. Each header has one form only: a set bit that means nothing is refused.

Checksums are against corruption. Against people there is mutual TLS: a site can always send wrong
values in a frame that is right.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import zstandard

from openfl_flows.state import Array


class FrameError(ValueError):
    """A frame that cannot be made of the sender's values, or that the receiver refuses."""


HEADER_BYTES = 512
"""Bytes before the payload."""

_MAGIC = b"OFLframe"
_VERSION = 1
_COMPRESSED = 1
_FIELDS = struct.Struct("<8sHHIIIQQQQ32s32s32s32s16s256s52x")
_CHECKSUM = struct.Struct("<I")
_MAX_WINDOW = 8 * 2**20
"""What RFC 8878 asks of every zstd decoder; level 1 uses 512 KiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a frame says of itself, and what a receiver expects it to say.

    Attributes:
        sender: Name of the site, or of the aggregator; at most 255 bytes of UTF-8.
        round: Number of the round.
        spec: SHA-256 of the Spec of what travels, in hexadecimal.
        reference: SHA-256 of the model that values are relative to; "" where there is none.
        result: SHA-256 of the model that comes out; "" where the sender does not say.
        codec: Name of the codec; at most 31 characters.
        part: Number of this bucket, from 0.
        parts: Number of buckets.
        dtype: numpy name of the bucket's element type; at most 15 characters.
        size: Elements of the bucket.

    Raises:
        ValueError: A field does not fit the frame's layout.
    """

    sender: str
    round: int
    spec: str
    reference: str
    result: str
    codec: str
    part: int
    parts: int
    dtype: str
    size: int

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        for name, most in (("sender", 255), ("codec", 31), ("dtype", 15)):
            text = getattr(self, name)
            right = text.isprintable() and (name == "sender" or text.isascii())
            if not right or not 1 <= len(text.encode()) <= most:
                raise ValueError(f"{name} is {text[:40]!r}, expected 1 to {most} printable bytes")
        for name in ("spec", "reference", "result"):
            text = getattr(self, name)
            if not _is_digest(text) and (text or name == "spec"):
                raise ValueError(f"{name} is {text[:64]!r}, expected a SHA-256 in hexadecimal")
        for name, end in (
            ("round", 2**63),
            ("size", 2**63),
            ("parts", 2**32),
            ("part", self.parts),
        ):
            number = getattr(self, name)
            if not 0 <= number < end:
                raise ValueError(f"{name} is {number}, expected 0 to {end - 1}")


class _Stored(NamedTuple):
    """How a payload lies in its frame."""

    flags: int
    checksum: int
    stored: int
    num_bytes: int


def write_frame(header: Header, payload: Array, *, compress: bool) -> Array:
    """One frame, (HEADER_BYTES + stored bytes,) uint8.

    Args:
        header: What the frame is.
        payload: (num_bytes,) uint8, contiguous.
        compress: Store the payload as zstd of level 1 where that is smaller. The same payload
            gives the same bytes with the same version of zstd, and with every version the same
            payload again.

    Raises:
        ValueError: The payload is not a flat array of bytes.
    """
    if not _is_flat_bytes(payload):
        raise ValueError(f"payload is {payload.dtype}{payload.shape}, expected flat uint8")
    stored, flags = payload, 0
    if compress:
        smaller = np.frombuffer(zstandard.ZstdCompressor(level=1).compress(payload.data), np.uint8)
        if smaller.size < payload.size:
            stored, flags = smaller, _COMPRESSED
    frame = np.empty(HEADER_BYTES + stored.size, np.uint8)
    facts = _Stored(flags, zlib.crc32(stored.data), stored.size, payload.size)
    frame[:HEADER_BYTES] = np.frombuffer(_header_bytes(header, facts), np.uint8)
    frame[HEADER_BYTES:] = stored
    return frame


def read_header(frame: Array) -> Header:
    """What a frame says of itself; nothing of it is compared, and the payload is not looked at.

    Raises:
        ValueError: There is no whole header of this version.
    """
    try:
        return _parse(frame)[0]
    except ValueError as error:
        raise ValueError(f"frame {error}") from None


def read_frame(frame: Array, expected: Header, num_bytes: int, *, what: str = "update") -> Array:
    """The payload of a frame that is what was expected, (num_bytes,) uint8, read-only.

    It is a view of the frame, unless the payload was compressed. No more than ``num_bytes`` and a
    window of 8 MiB is allocated, whatever the frame declares.

    Args:
        frame: What arrived.
        expected: The header as the receiver would have written it. Where its ``result`` is "",
            any result will do.
        num_bytes: Bytes of the payload, from the codec and the number of elements.
        what: What ``expected.sender`` sent, for the message: ``update`` or ``model``.

    Raises:
        ValueError: The frame is damaged, or is not the expected one. The line names the sender
            from whom it was expected, the frame and the reason.
    """
    try:
        header, facts = _parse(frame)
        difference = _difference(header, expected)
        if difference:
            raise ValueError(difference)
        return _payload(frame, facts, num_bytes)
    except ValueError as error:
        raise refusal(expected, str(error), what=what) from None


def refusal(expected: Header, reason: str, *, what: str = "update") -> FrameError:
    """The error by which a frame is refused.

    Args:
        expected: Header of the frame that was expected.
        reason: Goes on after "frame 3 of 12", e.g. "was sent by 'site-1'".
        what: What ``expected.sender`` sent.
    """
    return FrameError(
        f"{what} of {expected.sender!r} refused: "
        f"frame {expected.part + 1} of {expected.parts} {reason}"
    )


def _parse(frame: Array) -> tuple[Header, _Stored]:
    """Header and lengths of a frame; the reason of a refusal goes on after "frame"."""
    if not _is_flat_bytes(frame):
        raise ValueError(f"is an array of {frame.dtype}{frame.shape}, expected flat uint8")
    if frame.size < HEADER_BYTES:
        raise ValueError(f"has {frame.size} bytes, expected at least {HEADER_BYTES}")
    raw = frame[:HEADER_BYTES].tobytes()
    magic, version, flags, part, parts, checksum, round_number, size, stored, num_bytes, *texts = (
        _FIELDS.unpack_from(raw)
    )
    if magic != _MAGIC:
        raise ValueError("is not a frame: it begins with other bytes")
    if version != _VERSION:
        raise ValueError(f"is of version {version} of the format, expected {_VERSION}")
    if _CHECKSUM.unpack_from(raw, _FIELDS.size)[0] != zlib.crc32(raw[: _FIELDS.size]):
        raise ValueError("is damaged: its header does not have the checksum that it says")
    if flags not in (0, _COMPRESSED):
        raise ValueError(f"has flags {flags:#x}, expected 0 or {_COMPRESSED}")
    spec, reference, result = (digest.hex() if any(digest) else "" for digest in texts[:3])
    try:
        codec, dtype, sender = (text.rstrip(b"\0").decode() for text in texts[3:])
    except UnicodeDecodeError:
        raise ValueError("has a name in its header that is not UTF-8") from None
    try:
        header = Header(
            sender=sender, round=round_number, spec=spec, reference=reference, result=result,
            codec=codec, part=part, parts=parts, dtype=dtype, size=size,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"has a header whose {error}") from None
    facts = _Stored(flags, checksum, stored, num_bytes)
    if _header_bytes(header, facts) != raw:
        raise ValueError("has bits in its header that mean nothing")
    return header, facts


def _difference(found: Header, expected: Header) -> str:
    """Why a frame is not the expected one, in an operator's words; "" where it is."""
    old = " (a replay?)" if found.round < expected.round else ""
    reasons = {
        "sender": f"was sent by {found.sender!r}",
        "round": f"is of round {found.round}, expected round {expected.round}{old}",
        "spec": f"is of another model: spec {_short(found.spec)}, expected {_short(expected.spec)}",
        "reference": f"is relative to another model: {_short(found.reference)}, "
        f"expected {_short(expected.reference)}",
        "result": f"makes another model: {_short(found.result)}, "
        f"expected {_short(expected.result)}",
        "parts": f"is one of {found.parts}",
        "part": f"is frame {found.part + 1} (out of order, or sent twice?)",
        "codec": f"is encoded with {found.codec}, expected {expected.codec}",
        "dtype": f"holds {found.dtype}, expected {expected.dtype}",
        "size": f"holds {found.size:,} elements, expected {expected.size:,}",
    }
    for name, reason in reasons.items():
        asked = getattr(expected, name)
        if getattr(found, name) != asked and (asked or name != "result"):
            return reason
    return ""


def _payload(frame: Array, facts: _Stored, num_bytes: int) -> Array:
    """What follows a header, verified and decompressed."""
    if facts.num_bytes != num_bytes:
        raise ValueError(f"declares {facts.num_bytes:,} bytes of values, expected {num_bytes:,}")
    compressed = facts.flags == _COMPRESSED
    if facts.stored >= num_bytes if compressed else facts.stored != num_bytes:
        limit = f"fewer than {num_bytes:,}" if compressed else f"{num_bytes:,}"
        raise ValueError(f"declares {facts.stored:,} bytes after its header, expected {limit}")
    stored = frame[HEADER_BYTES:]
    if stored.size != facts.stored:
        raise ValueError(
            f"declares {facts.stored:,} bytes after its header, but {stored.size:,} arrived"
        )
    if zlib.crc32(stored.data) != facts.checksum:
        raise ValueError("is damaged: its payload does not have the checksum that the header says")
    payload = _decompressed(stored, num_bytes) if compressed else stored.view()
    payload.flags.writeable = False
    return payload


def _decompressed(stored: Array, num_bytes: int) -> Array:
    """The bytes of one zstd frame, which must say that it holds ``num_bytes``, and hold them."""
    try:
        says = zstandard.get_frame_parameters(stored.data)
        if says.content_size != num_bytes:
            raise ValueError(f"would unpack to {says.content_size:,} bytes, expected {num_bytes:,}")
        if says.dict_id or says.window_size > _MAX_WINDOW:
            raise ValueError("is compressed with a dictionary or a window that is too large")
        unpacked = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompress(
            stored.data, max_output_size=num_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ValueError(f"does not unpack: {error}") from None
    return np.frombuffer(unpacked, np.uint8)


def _header_bytes(header: Header, facts: _Stored) -> bytes:
    digests = (
        bytes.fromhex(d or "00" * 32) for d in (header.spec, header.reference, header.result)
    )
    fields = _FIELDS.pack(
        _MAGIC, _VERSION, facts.flags, header.part, header.parts, facts.checksum, header.round,
        header.size, facts.stored, facts.num_bytes, *digests, header.codec.encode(),
        header.dtype.encode(), header.sender.encode(),
    )  # fmt: skip
    return fields + _CHECKSUM.pack(zlib.crc32(fields))


def _is_flat_bytes(array: Array) -> bool:
    return array.dtype == np.uint8 and array.ndim == 1 and array.flags.c_contiguous


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _short(digest: str) -> str:
    return f"{digest[:12]}.." if digest else "none"
