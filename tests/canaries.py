"""Words, numbers and secrets that occur nowhere else, and the search for them in any bytes."""

import base64
import bz2
import gzip
import lzma
import os
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fx_processes import _fx
from tests.processes import Process

WORD = "QzCanaryXw"
"""In every text that stays at a site; words differ in what follows it."""
PEPTIDE = "WCMHWWPYHCMQWWDHCW"
"""In every sequence."""
NUMBERS = (1.2345678901, 1.2345682345, -6.7654321098, -6.7654329876)
"""Labels; as text they are found by their first eight digits."""

_STREAMS = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08|\x28\xb5\x2f\xfd|BZh[1-9]|\xfd7zXZ")
_DEEPEST = 2


def text_forms(text: str) -> dict[str, bytes]:
    """A text as it may be written, by the name of the form."""
    plain = text.encode()
    forms = {
        "plain": plain,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
    }
    return forms | binary_forms(plain)


def binary_forms(content: bytes) -> dict[str, bytes]:
    """Bytes as they are, in hexadecimal digits, and at any place of a text in base64."""
    forms = {"bytes": content, "hex": content.hex().encode(), "HEX": content.hex().upper().encode()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + content)
        # The characters at the ends depend on what stands beside.
        inner = coded[-(-shift * 4 // 3) : len(coded) - (4 if coded.endswith(b"=") else 0)]
        forms |= {f"base64-{shift}": inner, f"url64-{shift}": inner.translate(_URL)}
    return forms


_URL = bytes.maketrans(b"+/", b"-_")


def number_forms(value: float) -> dict[str, bytes]:
    """A number as text, and as the elements of arrays."""
    forms = text_forms(f"{value:.10f}"[: 8 + (value < 0)])
    return forms | {kind: struct.pack(kind, value) for kind in ("<d", ">d", "<f", ">f")}


def needles(texts: Iterable[str] = (), secrets: Iterable[bytes] = ()) -> dict[str, bytes]:
    """What to look for, by what it is: the canaries, other texts, and secrets.

    Args:
        texts: Such as SMILES.
        secrets: Keys, as bytes.
    """
    found: dict[str, bytes] = {}
    for text in (WORD, PEPTIDE, *texts):
        found |= {f"{text} as {form}": one for form, one in text_forms(text).items()}
    for value in NUMBERS:
        found |= {f"{value} as {form}": one for form, one in number_forms(value).items()}
    for number, secret in enumerate(secrets):
        found |= {f"secret {number} as {form}": one for form, one in binary_forms(secret).items()}
    return found


def leaked(content: bytes, wanted: Mapping[str, bytes], depth: int = 0) -> set[str]:
    """Which needles are in ``content``, or in whatever is compressed in it."""
    found = {name for name, needle in wanted.items() if needle in content}
    if depth < _DEEPEST:
        for inner in _inflated(content):
            found |= leaked(inner, wanted, depth + 1)
    return found


def leaked_in(
    places: Iterable[Path], wanted: Mapping[str, bytes], *, but: Collection[str] = ()
) -> dict[str, set[str]]:
    """Which needles are in the names and contents of files, by the file.

    Args:
        places: Files, and folders with all that is in them.
        wanted: Needles.
        but: Names of files that are passed over.
    """
    found = {}
    for place in places:
        for file in (place, *place.rglob("*")):
            if file.name in but or file.is_symlink():
                continue
            name = str(file.relative_to(place.parent)).encode()
            content = file.read_bytes() if file.is_file() else b""
            if here := leaked(name, wanted) | leaked(content, wanted):
                found[str(file)] = here
    return found


def _inflated(content: bytes) -> Iterator[bytes]:
    for match in _STREAMS.finditer(content):
        stream = content[match.start() :]
        if match[0].startswith(b"\x28"):
            yield from _zstd(stream)
            continue
        opener: Any = {
            0x78: zlib.decompressobj,
            0x1F: lambda: zlib.decompressobj(31),
            0x42: bz2.BZ2Decompressor,
            0xFD: lzma.LZMADecompressor,
        }[match[0][0]]
        try:
            inner = opener().decompress(stream)
        except (zlib.error, OSError, lzma.LZMAError, EOFError):
            continue
        if len(inner) > 8:
            yield inner


def _zstd(stream: bytes) -> Iterator[bytes]:
    import zstandard

    try:
        yield zstandard.ZstdDecompressor().decompressobj().decompress(stream)
    except zstandard.ZstdError:
        return


def compressed_forms(content: bytes) -> dict[str, bytes]:
    """Content in every compression that :func:`leaked` sees through."""
    import zstandard

    return {
        "zlib": zlib.compress(content),
        "gzip": gzip.compress(content),
        "bzip2": bz2.compress(content),
        "xz": lzma.compress(content),
        "zstd": zstandard.compress(content),
    }


def recorded_site(
    folder: Path, name: str, record: Path, *, environment: Mapping[str, str], leak: str = ""
) -> Process:
    """Start a site; every byte of its calls, before TLS, and every address that it connects to.

    Args:
        folder: Its workspace.
        name: The site.
        record: File that requests are added to; addresses are in one of the same name ``.hosts``.
        environment: Variables.
        leak: A word that a metric of its toy learner is named by: what must not happen.
    """
    log = folder / "logs" / "fx.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("collaborator", "start", "-n", name)
    return Process(_recorded_fx, record, leak, folder, arguments, dict(environment), log=log)


def _recorded_fx(
    record: Path, leak: str, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    import sys

    import grpc

    calls = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    hosts = os.open(record.with_suffix(".hosts"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watch(event: str, given: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
            os.write(hosts, f"{event} {given!r}\n".encode())

    sys.addaudithook(watch)
    secure_channel = grpc.secure_channel

    def recording_channel(*given: Any, **options: Any) -> Any:
        return _Recording(secure_channel(*given, **options), calls)

    grpc.secure_channel = recording_channel
    if leak:
        _leak(leak)
    _fx(folder, arguments, environment)


def _leak(word: str) -> None:
    from openfl_flows.learners.toy import ToyLearner

    validate = ToyLearner.validate
    ToyLearner.validate = lambda self: {**validate(self), f"mse_{word}": validate(self)["mse"]}  # type: ignore[method-assign]


class _Recording:
    """A channel whose requests are written down as they are serialized.

    Args:
        channel: gRPC's.
        calls: Descriptor of a file.
    """

    def __init__(self, channel: Any, calls: int) -> None:
        self._channel, self._calls = channel, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def unary_unary(self, method: str, request_serializer: Any, *given: Any, **more: Any) -> Any:
        return self._recorded("unary_unary", method, request_serializer, *given, **more)

    def stream_unary(self, method: str, request_serializer: Any, *given: Any, **more: Any) -> Any:
        return self._recorded("stream_unary", method, request_serializer, *given, **more)

    def unary_stream(self, method: str, request_serializer: Any, *given: Any, **more: Any) -> Any:
        return self._recorded("unary_stream", method, request_serializer, *given, **more)

    def _recorded(self, kind: str, method: str, serializer: Any, *given: Any, **more: Any) -> Any:
        def written(request: Any) -> bytes:
            content: bytes = serializer(request)
            # Pieces of one message are put together again.
            piece = getattr(request, "npbytes", None)
            os.write(self._calls, content if piece is None else piece)
            return content

        call = getattr(self._channel, kind)(method, written, *given, **more)

        def made(request: Any, *rest: Any, **options: Any) -> Any:
            os.write(self._calls, f"{method} {options.get('metadata')!r}".encode())
            return call(request, *rest, **options)

        return made
