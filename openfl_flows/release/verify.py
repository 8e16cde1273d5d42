"""A release is signed, signatures are collected, and all of it is verified before it is used."""

from dataclasses import dataclass
from pathlib import Path

from openfl_flows.atomic import write_atomically
from openfl_flows.ops.own_part import check_own_part
from openfl_flows.release.folder import (
    SIGNATURES,
    SUFFIX,
    files_of,
    read_document,
    sha256_of,
)
from openfl_flows.release.keys import PrivateKey, PublicKey, Signers, fingerprint
from openfl_flows.release.manifest import MODEL, Contents, examine, read_manifest
from openfl_flows.release.signature import digests_signed, hint_of, signed, statement


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A release that may be used.

    Attributes:
        contents: What it holds.
        model: The model's file.
        signers: Who signed it.
    """

    contents: Contents
    model: Path
    signers: tuple[str, ...]


def sign_release(
    folder: Path, key: PrivateKey, *, out: Path | None = None, site: Path | None = None
) -> Path:
    """Sign a release, once every digest in it was recomputed.

    Args:
        folder: The release.
        key: Of one of the signers that its manifest names.
        out: Where to write the signature; into the release by default.
        site: The local state of the party's own site, ``local_state/NAME``: the ledger must say of
            the site what the site knows itself.

    Returns:
        The signature's file: small, and all that a party needs to send back.

    Raises:
        ValueError: The release is not what its manifest says, does not name the key, or has another
            contribution of the site than the site made.
    """
    digests, contents = _examined(folder)
    if site is not None:
        check_own_part(contents.ledger, site, site.resolve().name)
    name = _name_of(folder, contents, fingerprint(key.public_key()))
    path = out or _place(folder, name)
    write_atomically(path, signed(statement(digests), key))
    return path


def collect_signature(folder: Path, path: Path, signers: Signers) -> str:
    """Put a signature that a party has sent into the release, under the party's name.

    Args:
        folder: The release.
        path: What was sent, under any name.
        signers: The agreed ones.

    Returns:
        Whose it is.

    Raises:
        ValueError: It is of nobody who was agreed on, or of another release.
    """
    content = read_document(path.resolve())
    try:
        hint = hint_of(content)
        found = [name for name, key in signers.keys.items() if fingerprint(key) == hint]
        if not found:
            raise ValueError(f"by the key {hint[:12]}, which is none of the agreed signers'")
        digests = digests_signed(content, signers.keys[found[0]])
        released, _ = files_of(folder)
        _compare_names(folder, digests, released)
        _compare(folder, digests, {file: sha256_of(folder / file) for file in released})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    write_atomically(_place(folder, found[0]), content)
    return found[0]


def verify_release(
    folder: Path, signers: Signers, *, need: int | None = None, after: Path | None = None
) -> Verified:
    """Accept a release, or say why not.

    Signatures come first: nothing but their envelopes is parsed before as many of the agreed
    signers as are needed have signed exactly these files. Every signature that is there must be
    good, also those that are not needed.

    Args:
        folder: The release.
        signers: The verifier's own list.
        need: More signers than the list asks for; never fewer.
        after: The manifest of a release that was accepted before: this one must come after it, by
            its ledger, or have been trained from it.

    Returns:
        What may be used.

    Raises:
        ValueError: It is refused; the message names the file or signer, and why.
    """
    if need is not None and need < signers.need:
        raise ValueError(f"need={need}, expected at least the {signers.need} of the agreed signers")
    least = signers.need if need is None else need
    released, signatures = files_of(folder)
    signing = {}
    for file in signatures:
        name = Path(file).name.removesuffix(SUFFIX)
        if name not in signers.keys:
            raise ValueError(f"{folder / file}: {name!r} is none of the agreed signers")
        signing[name] = _read_signature(folder / file, signers.keys[name])
    if len(signing) < least:
        who = ", ".join(sorted(signing)) or "nobody"
        raise ValueError(f"{folder}: signed by {who}, expected at least {least} agreed signers")
    found: dict[str, str] = {}
    for name, digests in signing.items():
        try:
            _compare_names(folder, digests, released)
            found = found or {file: sha256_of(folder / file) for file in released}
            _compare(folder, digests, found)
        except ValueError as error:
            raise ValueError(f"{error} (signature of {name})") from None
    contents = examine(folder, found)
    if after is not None:
        check_after(contents, after)
    return Verified(contents=contents, model=folder / MODEL, signers=tuple(sorted(signing)))


def check_after(contents: Contents, manifest: Path) -> None:
    """Make sure that a release comes after another one.

    Args:
        contents: The newer one's.
        manifest: The older one's manifest, as it was accepted.

    Raises:
        ValueError: Its ledger neither goes on from the older one's head nor begins with its model.
    """
    former = read_manifest(manifest)
    lines, head, model = former["ledger"]["lines"], former["ledger"]["head"], former["model"]
    known = contents.ledger.lines
    goes_on = isinstance(lines, int) and 0 < lines < len(known) and known[lines - 1].hash == head
    if not goes_on and (len(known) < 2 or known[0].body["after"] != model["digest"]):
        raise ValueError(
            f"the ledger neither goes on from line {lines} with hash {head[:12]} nor begins with "
            f"the model {model['digest'][:12]}, as a release after {manifest} would"
        )


def _examined(folder: Path) -> tuple[dict[str, str], Contents]:
    released, _ = files_of(folder)
    digests = {name: sha256_of(folder / name) for name in released}
    return digests, examine(folder, digests)


def _read_signature(path: Path, key: PublicKey) -> dict[str, str]:
    try:
        return digests_signed(read_document(path), key)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None


def _compare_names(folder: Path, digests: dict[str, str], released: list[str]) -> None:
    """Refuse files that nobody signed before they are read."""
    for name in sorted(digests.keys() ^ {*released}):
        what = "missing" if name in digests else "not part of what was signed"
        raise ValueError(f"{folder / name}: {what}")


def _compare(folder: Path, digests: dict[str, str], found: dict[str, str]) -> None:
    for name, expected in sorted(digests.items()):
        if found[name] != expected:
            raise ValueError(f"{folder / name}: not what was signed, its SHA-256 differs")


def _name_of(folder: Path, contents: Contents, mark: str) -> str:
    keys = contents.manifest["signers"]["keys"]
    for name, known in keys.items():
        if known == mark:
            return str(name)
    raise ValueError(
        f"{folder}: asks for signatures of {', '.join(keys)}, none of whom has the key {mark[:12]}"
    )


def _place(folder: Path, name: str) -> Path:
    return folder / SIGNATURES / f"{name}{SUFFIX}"
