import dataclasses
import struct
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_flows.codecs.frame import (
    HEADER_BYTES,
    Header,
    read_frame,
    read_header,
    refusal,
    write_frame,
)
from tests.fuzz_frames import resealed

HEADER = Header(
    sender="site-2",
    round=5,
    spec="5e" * 32,
    reference="0f" * 32,
    result="",
    codec="int4",
    part=2,
    parts=12,
    dtype="float32",
    size=1000,
)
PAYLOAD = np.random.default_rng(0).integers(0, 256, 532, dtype=np.uint8)
TERNARY = np.random.default_rng(0).choice([0, 1, 2], 4096, p=[0.8, 0.1, 0.1]).astype(np.uint8)


def differing(**fields: object) -> Header:
    return dataclasses.replace(HEADER, **fields)


def written(payload: np.ndarray = PAYLOAD, *, compress: bool = False, **fields: object):
    return write_frame(differing(**fields), payload, compress=compress)


def sealed(payload: bytes | np.ndarray, num_bytes: int, flags: int = 0) -> np.ndarray:
    """A frame whose checksums and lengths are right for whatever payload is given."""
    frame = np.concatenate([written()[:HEADER_BYTES], np.frombuffer(bytes(payload), np.uint8)])
    struct.pack_into("<H", frame, 10, flags)
    struct.pack_into("<QQ", frame, 40, len(bytes(payload)), num_bytes)
    return resealed(frame)


digests = st.binary(min_size=32, max_size=32).filter(any).map(bytes.hex)
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
headers = st.integers(1, 2**32 - 1).flatmap(
    lambda parts: st.builds(
        Header,
        sender=names.filter(lambda name: len(name.encode()) <= 255),
        round=st.integers(0, 2**63 - 1),
        spec=digests,
        reference=st.just("") | digests,
        result=st.just("") | digests,
        codec=st.from_regex(r"[a-z0-9]{1,31}", fullmatch=True),
        part=st.integers(0, parts - 1),
        parts=st.just(parts),
        dtype=st.sampled_from(["float32", "float16", "int64", "bool"]),
        size=st.integers(0, 2**63 - 1),
    )
)


@settings(max_examples=60, deadline=None)
@given(header=headers, payload=st.binary(max_size=300), compress=st.booleans())
def test_what_is_written_is_read(header, payload, compress):
    frame = write_frame(header, np.frombuffer(payload, np.uint8), compress=compress)
    assert read_header(frame) == header
    assert read_frame(frame, header, len(payload)).tobytes() == payload


def test_the_documented_layout():
    frame = written(result="ab" * 32).tobytes()
    assert frame[:8] == b"OFLframe"
    assert struct.unpack_from("<HHIII", frame, 8) == (1, 0, 2, 12, zlib.crc32(PAYLOAD))
    assert struct.unpack_from("<QQQQ", frame, 24) == (5, 1000, 532, 532)
    assert frame[56:88].hex() == HEADER.spec
    assert frame[88:120].hex() == HEADER.reference
    assert frame[120:152].hex() == "ab" * 32
    assert frame[152:184] == b"int4".ljust(32, b"\0")
    assert frame[184:200] == b"float32".ljust(16, b"\0")
    assert frame[200:456] == b"site-2".ljust(256, b"\0")
    assert frame[456:508] == bytes(52)
    assert struct.unpack_from("<I", frame, 508)[0] == zlib.crc32(frame[:508])
    assert frame[512:] == PAYLOAD.tobytes()


def test_values_are_a_view_of_a_read_only_message():
    values = np.arange(1000, dtype=np.float32)
    message = written(values.view(np.uint8)).tobytes()
    payload = read_frame(np.frombuffer(message, np.uint8), HEADER, 4000)
    assert np.shares_memory(payload, np.frombuffer(message, np.uint8))
    assert not payload.flags.writeable
    np.testing.assert_array_equal(payload.view(np.float32), values)
    assert HEADER_BYTES % 64 == 0


def test_a_payload_is_read_only_and_leaves_its_frame_as_it_is():
    frame = written()
    assert not read_frame(frame, HEADER, 532).flags.writeable
    assert frame.flags.writeable


def test_zstd_only_where_it_is_smaller():
    smaller = written(TERNARY, compress=True)
    assert smaller.size < written(TERNARY).size == HEADER_BYTES + 4096
    np.testing.assert_array_equal(read_frame(smaller, HEADER, 4096), TERNARY)
    np.testing.assert_array_equal(written(compress=True), written())


def test_equal_payloads_give_equal_frames():
    assert written(TERNARY, compress=True).tobytes() == written(TERNARY, compress=True).tobytes()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sender": "site-1"}, "was sent by 'site-1'"),
        ({"round": 4}, "is of round 4, expected round 5 (a replay?)"),
        ({"round": 6}, "is of round 6, expected round 5"),
        ({"spec": "1a" * 32}, "is of another model: spec 1a1a1a1a1a1a.., expected 5e5e5e5e5e5e.."),
        (
            {"reference": "1a" * 32},
            "is relative to another model: 1a1a1a1a1a1a.., expected 0f0f0f0f0f0f..",
        ),
        ({"reference": ""}, "is relative to another model: none, expected 0f0f0f0f0f0f.."),
        ({"parts": 13}, "is one of 13"),
        ({"part": 3}, "is frame 4 (out of order, or sent twice?)"),
        ({"codec": "int8"}, "is encoded with int8, expected int4"),
        ({"dtype": "float16"}, "holds float16, expected float32"),
        ({"size": 10**13}, "holds 10,000,000,000,000 elements, expected 1,000"),
    ],
    ids=str,
)
def test_a_frame_that_is_another_is_refused_with_the_reason(fields, reason):
    with pytest.raises(ValueError, match=".") as refused:
        read_frame(written(**fields), HEADER, 532)
    assert str(refused.value) == f"update of 'site-2' refused: frame 3 of 12 {reason}"


def test_the_result_is_compared_where_the_receiver_knows_it():
    frame = written(result="1a" * 32)
    assert read_frame(frame, HEADER, 532).size == 532
    with pytest.raises(ValueError, match=r"^model of 'site-2' refused: .* makes another model: 1a"):
        read_frame(frame, differing(result="2b" * 32), 532, what="model")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.zeros(1000, np.uint8), "is not a frame: it begins with other bytes"),
        (np.zeros((2, 600), np.uint8), r"is an array of uint8\(2, 600\), expected flat uint8"),
        (np.zeros(1000, np.float32), r"is an array of float32\(1000,\), expected flat uint8"),
        (written()[::-1], r"is an array of uint8\(1044,\), expected flat uint8"),
        (np.empty(0, np.uint8), "has 0 bytes, expected at least 512"),
        (written()[:511], "has 511 bytes, expected at least 512"),
        (written()[:-1], "declares 532 bytes after its header, but 531 arrived"),
        (np.tile(written(), 2), "declares 532 bytes after its header, but 1,576 arrived"),
        (sealed(PAYLOAD[:100], 532), "declares 100 bytes after its header, expected 532"),
        (sealed(PAYLOAD, 10**13), "declares 10,000,000,000,000 bytes of values, expected 532"),
        (sealed(PAYLOAD, 532, flags=2), "has flags 0x2, expected 0 or 1"),
        (sealed(PAYLOAD, 532, flags=1), "declares 532 bytes .* expected fewer than 532"),
        (sealed(PAYLOAD[:99], 532, flags=1), "does not unpack: .*frame parameters"),
    ],
    ids=str,
)
def test_a_frame_that_is_none_is_refused_with_the_reason(frame, reason):
    with pytest.raises(ValueError, match=f"^update of 'site-2' refused: frame 3 of 12 {reason}"):
        read_frame(frame, HEADER, 532)


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (3, "is not a frame"),
        (8, "is of version 3 of the format, expected 1"),
        (24, "is damaged: its header"),
        (460, "is damaged: its header"),
        (508, "is damaged: its header"),
        (HEADER_BYTES, "is damaged: its payload"),
        (-1, "is damaged: its payload"),
    ],
)
def test_a_flipped_bit_is_found(offset, reason):
    frame = written()
    frame[offset] ^= 2
    with pytest.raises(ValueError, match=reason):
        read_frame(frame, HEADER, 532)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (460, b"x", "has bits in its header that mean nothing"),
        (160, b"x", r"has a header whose codec is 'int4\\x00\\x00\\x00\\x00x'"),
        (200, b"\xff", "has a name in its header that is not UTF-8"),
        (200, b"\n", r"has a header whose sender is '\\nite-2', expected 1 to 255 printable"),
        (200, b"s" * 256, "has a header whose sender is"),
        (16, b"\0\0\0\0", "has a header whose part is 2, expected 0 to"),
        (24, b"\xff" * 8, "has a header whose round is"),
    ],
)
def test_a_header_has_one_form_only(offset, value, reason):
    frame = written()
    frame[offset : offset + len(value)] = np.frombuffer(value, np.uint8)
    with pytest.raises(ValueError, match=f"^frame {reason}"):
        read_header(resealed(frame))


def zstd(data: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (zstd(bytes(10**7)), "would unpack to 10,000,000 bytes, expected 4,096"),
        (zstd(bytes(4095)), "would unpack to 4,095 bytes, expected 4,096"),
        (zstd(bytes(4096), write_content_size=False), "would unpack to"),
        (zstd(bytes(4096)) + b"x", "does not unpack: .* 1 bytes of unused data"),
        (zstd(bytes(4096)) * 2, "does not unpack: .* unused data"),
        (zstd(bytes(4096))[:-1], "does not unpack: "),
        (b"\x50\x2a\x4d\x18\x00\x10\x00\x00" + bytes(100), "does not unpack: "),
        (b"\x28\xb5\x2f\xfd", "does not unpack: "),
    ],
    ids=["bomb", "short", "unsaid", "trailing", "twice", "cut", "skippable", "magic"],
)
def test_a_zstd_frame_must_be_the_one_that_was_expected(stored, reason):
    with pytest.raises(ValueError, match=f"^update of 'site-2' refused: frame 3 of 12 {reason}"):
        read_frame(sealed(stored, 4096, flags=1), HEADER, 4096)


def test_zstd_with_a_dictionary_or_a_large_window_is_refused():
    words = zstandard.ZstdCompressionDict(b"abcdefgh" * 64)
    with_words = zstandard.ZstdCompressor(dict_data=words).compress(bytes(4096))
    identified = bytearray(with_words)
    identified[4] |= 1  # the identifier of a dictionary, one byte, follows
    identified[5:5] = b"\x07"
    size = 16 * 2**20
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=24)
    ).compress(bytes(size))
    for stored, num_bytes in ((identified, 4096), (wide, size)):
        with pytest.raises(ValueError, match="with a dictionary or a window that is too large"):
            read_frame(sealed(stored, num_bytes, flags=1), HEADER, num_bytes)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sender": ""}, "sender is '', expected 1 to 255 printable bytes"),
        ({"sender": "é" * 128}, "sender is 'é"),
        ({"codec": "é"}, "codec is 'é', expected 1 to 31 printable bytes"),
        ({"spec": ""}, "spec is '', expected a SHA-256 in hexadecimal"),
        ({"result": "AB" * 32}, "result is 'ABAB"),
        ({"part": 12}, "part is 12, expected 0 to 11"),
        ({"round": -1}, "round is -1, expected 0 to"),
    ],
)
def test_a_header_that_cannot_be_written_is_refused(fields, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        differing(**fields)


def test_only_flat_bytes_are_framed():
    with pytest.raises(ValueError, match=r"^payload is float32\(2,\), expected flat uint8$"):
        write_frame(HEADER, np.zeros(2, np.float32), compress=False)


def test_others_refuse_in_the_same_words():
    line = "model of 'site-2' refused: frame 3 of 12 holds a scale that is not finite"
    assert str(refusal(HEADER, "holds a scale that is not finite", what="model")) == line
