"""The plan: composed by Hydra, given on as plain values."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plan_folder() -> Path:
    """The plan/ tree: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "plan"
    return installed if installed.is_dir() else package.parent / "plan"


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The plan with overrides, as plain values.

    Raises:
        ValueError: An override does not fit the plan.
    """
    return compose_study(overrides)[0]


def compose_study(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan with overrides, and the study of it: which runs to make and to compare.

    Raises:
        ValueError: An override does not fit the plan.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    register_resolvers()
    with hydra.initialize_config_dir(str(plan_folder()), version_base="1.3"):
        try:
            composed = hydra.compose("config", overrides=list(overrides))
            study = OmegaConf.to_container(composed["study"], resolve=True)
            assert isinstance(study, dict)
            return plain(composed), {str(key): value for key, value in study.items()}
        except InterpolationKeyError as error:
            if not str(error.full_key).startswith("schema."):
                raise ValueError(" ".join(str(error).split())) from None
            absent = str(error.msg).split("'")[1]
            raise ValueError(
                f"schema.name={composed.schema.name} with model.task={composed.model.task}: "
                f"{error.full_key} is the plan's {absent}, which it does not have; expected the "
                "schema of this model's data, or schema=none"
            ) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(" ".join(str(error).split())) from None


def plain(composed: Any) -> dict[str, Any]:
    """A composed plan as plain values; a single run does not know of what study it is part.

    Raises:
        ValueError: A value is missing.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key} is missing, expected a value: KEY=VALUE") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in ("hydra", "study")}


def register_resolvers() -> None:
    """``${product:A,B}`` in a plan, and ``${quotient:A,B,C}``: A / B / C, which must be whole."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("quotient", _quotient, replace=True)


def _quotient(dividend: int, *divisors: int) -> int:
    product = math.prod(divisors)
    if product < 1 or dividend % product:
        raise ValueError(f"{dividend} is no multiple of {' x '.join(map(str, divisors))}")
    return dividend // product


def leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": leaf for inner, leaf in leaves(value).items()}
        else:
            found[key] = value
    return found
