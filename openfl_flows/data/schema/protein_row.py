"""What one record of a FASTA file must be, by the schema."""

import re

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from openfl_flows.data.proteins.fasta import KEYS, PRED
from openfl_flows.data.proteins.residues import without_stop
from openfl_flows.data.schema.findings import refusal
from openfl_flows.data.schema.limits import ProteinsV1
from openfl_flows.data.schema.quantities import ANY_NUMBER, read_quantity


class ProteinRow(BaseModel):
    """One record; the context of validation is the schema, and its pairs of keys and values.

    Attributes:
        name: First word of the header.
        keys: All keys with their values, in the order of the header.
        sequence: Letters of the alphabet, and perhaps a final ``*``.
        SET: Part of the data.
        MASK: 0 and 1 for each residue.
        TARGET: Class, classes or number.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    keys: tuple[tuple[str, str], ...]
    sequence: str
    SET: str | None
    MASK: str | None
    TARGET: str | None

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not name or "=" in name:
            raise refusal("name", "'>NAME KEY=VALUE'")
        return name

    @field_validator("keys")
    @classmethod
    def _keys(
        cls, pairs: tuple[tuple[str, str], ...], info: ValidationInfo
    ) -> tuple[tuple[str, str], ...]:
        values: dict[str, str] = {}
        for key, value in pairs:
            if key.upper() in KEYS and key not in KEYS:
                raise refusal("key", f"{key.upper()} in capitals, not {key}")
            if values.setdefault(key, value) != value:
                raise refusal("key", f"one {key}")
        if absent := [key for key in _schema(info).keys if key not in values]:
            raise refusal("key", f"the key {absent[0]}")
        return pairs

    @field_validator("sequence")
    @classmethod
    def _sequence(cls, sequence: str, info: ValidationInfo) -> str:
        schema, plain = _schema(info), without_stop(sequence)
        if not schema.residues.holds(len(plain)):
            raise refusal("length", f"{schema.residues} residues, not {len(plain)}")
        if foreign := set(plain) - set(schema.alphabet):
            first = min(plain.index(letter) for letter in foreign)
            wanted = f"letters of {schema.alphabet}, not {plain[first]!r} at residue {first + 1}"
            raise refusal("letter", wanted)
        return sequence

    @field_validator("SET")
    @classmethod
    def _part(cls, part: str | None) -> str | None:
        if part is None or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", part):
            raise refusal("part", f"SET=train, val, {PRED} or the name of a test set")
        return part

    @field_validator("MASK")
    @classmethod
    def _mask(cls, mask: str | None, info: ValidationInfo) -> str | None:
        if mask is None:
            return None
        if _schema(info).kind != "residue_to_class":
            raise refusal("mask", f"none with kind={_schema(info).kind}")
        if mask.strip("01") or "1" not in mask:
            raise refusal("mask", "0 and 1, with at least one 1")
        if len(mask) not in _lengths(info, mask):
            raise refusal("mask", f"{_lengths(info, mask)[0]} digits, one for each residue")
        return mask

    @field_validator("TARGET")
    @classmethod
    def _target(cls, target: str | None, info: ValidationInfo) -> str | None:
        schema = _schema(info)
        if target is None:
            if (info.data.get("SET") or "").lower() == PRED:
                return None
            raise refusal("target", "TARGET=VALUE")
        if schema.kind == "sequence_to_value":
            if read_quantity(target, schema.value or ANY_NUMBER) is None:
                raise refusal("number", "a finite number")
            return target
        learned = [target]
        if schema.kind == "residue_to_class":
            lengths = _lengths(info, target)
            if len(target) not in lengths:
                raise refusal("target", f"{lengths[0]} classes, one for each residue")
            mask = info.data.get("MASK") or "1" * len(target)
            pairs = zip(target[: lengths[0]], mask, strict=False)
            learned = [name for name, digit in pairs if digit == "1"]
        if foreign := [name for name in learned if name not in schema.classes]:
            what = "" if foreign == [target] else f", not {foreign[0]}"
            raise refusal("class", f"one of {', '.join(schema.classes)}{what}")
        return target


def _lengths(info: ValidationInfo, otherwise: str) -> tuple[int, int]:
    """Residues without and with a final ``*``; any number where the sequence itself is wrong."""
    sequence: str = info.data.get("sequence", otherwise)
    return len(without_stop(sequence)), len(sequence)


def _schema(info: ValidationInfo) -> ProteinsV1:
    assert isinstance(info.context, ProteinsV1)
    return info.context
