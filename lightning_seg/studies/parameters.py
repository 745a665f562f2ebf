"""What a search tries of each setting: values and distributions, named as W&B's sweeps name them."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import JsonObject

if TYPE_CHECKING:
    from optuna import Trial


def suggest(trial: "Trial", parameters: Mapping[str, JsonObject]) -> JsonObject:
    """Let Optuna choose a value for each parameter.

    Args:
        trial: The trial.
        parameters: Of a `Search`.
    """
    chosen: JsonObject = {}
    for name, p in parameters.items():
        kind = distribution(p)
        if kind == "constant":
            chosen[name] = p["value"]
        elif kind == "categorical":
            chosen[name] = trial.suggest_categorical(name, choices(p))
        elif kind == "int_uniform":
            chosen[name] = trial.suggest_int(name, p["min"], p["max"])
        else:
            step = p.get("q", 1.0) if kind == "q_uniform" else None
            log = kind == "log_uniform_values"
            chosen[name] = trial.suggest_float(name, float(p["min"]), float(p["max"]), step=step, log=log)
    return chosen


def choices(parameter: JsonObject) -> list[Any]:
    """Return the values of a parameter; lists and mappings as text, for a study takes plain values only."""
    return [json.dumps(v) if isinstance(v, list | dict) else v for v in parameter["values"]]


def distribution(parameter: JsonObject) -> str:
    """Name the distribution of a parameter, by W&B's rules where it is not said."""
    if "distribution" in parameter:
        return str(parameter["distribution"])
    if "value" in parameter or "values" in parameter:
        return "constant" if "value" in parameter else "categorical"
    return "int_uniform" if all(isinstance(parameter.get(k), int) for k in ("min", "max")) else "uniform"


def check_parameter(file: str, name: str, parameter: object, method: str = "random") -> None:
    """Refuse a parameter that cannot be searched.

    Args:
        file: Where it stands, for messages.
        name: Of the setting.
        parameter: Its values or its distribution, as W&B names them.
        method: Of the search.

    Raises:
        UserError: It has no distribution, or one without its limits.
    """
    needed = {
        "constant": ("value",),
        "categorical": ("values",),
        **dict.fromkeys(("int_uniform", "uniform", "q_uniform", "log_uniform_values"), ("min", "max")),
    }
    kind = distribution(parameter) if isinstance(parameter, dict) else None
    if not isinstance(parameter, dict) or kind not in needed:
        raise UserError(f"{file}: {name} has the distribution {kind}; expected one of {', '.join(needed)}")
    if missing := [key for key in needed[kind] if key not in parameter]:
        raise UserError(f"{file}: {name} ({kind}) needs {' and '.join(missing)}")
    known = {*needed[kind], "distribution", *(("q",) if kind == "q_uniform" else ())}
    if unknown := [key for key in parameter if key not in known]:
        hint = ""
        if {"log", "scale"} & {*unknown}:
            hint = "; a logarithmic range is {min: ..., max: ..., distribution: log_uniform_values}"
        elif "q" in unknown:
            hint = "; steps are {min: ..., max: ..., q: ..., distribution: q_uniform}"
        raise UserError(
            f"{file}: {name} ({kind}) knows no {unknown[0]!r}, only {', '.join(sorted(known))}{hint}"
        )
    if kind == "q_uniform" and not parameter.get("q", 1) > 0:
        raise UserError(f"{file}: {name}: the step q must be above 0, got {parameter['q']!r}")
    if method == "grid" and kind not in ("constant", "categorical"):
        raise UserError(f"{file}: {name} has no list of values, which the method grid needs")
