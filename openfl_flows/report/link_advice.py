"""What a link plan comes to, in words: a table of the choices, and the advice with its sums."""

from collections.abc import Mapping, Sequence
from typing import Any

from openfl_flows.ops.link import Link
from openfl_flows.ops.link_plan import Choice, CodecCost, Load, advised, fitting, needed, predict
from openfl_flows.report.metric_names import duration


def plan_text(load: Load, present: Choice, all_: Sequence[Choice], share: float) -> str:
    """The choices as a table, and the advice.

    Args:
        load: What is moved and computed.
        present: What the plan says now.
        all_: As :func:`openfl_flows.ops.link_plan.choices` gives them.
        share: Of the round that may be idle.
    """
    lines = [
        f"{load.values:,} values travel"
        + (f" and {load.exact_bytes:,} bytes of integers" if load.exact_bytes else "")
        + f", H = {load.period} {load.unit}, {len(load.paces)} sites.",
        "error: what one encoding loses, relative to the values; bytes and transfer: of a site and",
        "a sync of the whole model; idle: share of a round beyond its slowest site's computation.",
        "",
        *_table(load, all_),
        "",
        f"As planned: {_keys(load, present)}: a round takes {_time(present.round.total)}, "
        f"idle {_percent(present.idle)}",
        *advice(load, all_, share),
    ]
    return "\n".join(lines)


def advice(load: Load, all_: Sequence[Choice], share: float) -> list[str]:
    """What to run, how that was reckoned, and what else would do; or what is needed."""
    fit = fitting(all_, share)
    best = advised(fit)
    if best is None:
        return _unfit(load, all_, share)
    others = [choice for choice in fit.values() if choice is not best]
    return [
        f"Advice: {_keys(load, best)}",
        *(f"  {line}" for line in arithmetic(load, best)),
        f"  idle {_percent(best.idle)} of a round, allowed {_percent(share)}",
        *(["Other codecs that do, each with its smallest H and F:"] if others else []),
        *(f"  {_keys(load, choice)}: idle {_percent(choice.idle)}" for choice in others),
    ]


def arithmetic(load: Load, choice: Choice) -> list[str]:
    """How a choice's round was reckoned, for its slowest site."""
    site = choice.round.slowest
    mine, link, codec = choice.round.sites[site], load.links[site], choice.codec
    part = f" / {choice.fragments} fragments" if choice.fragments > 1 else ""
    hidden = choice.delay * load.paces[site].step
    fixed = load.paces[site].fixed
    return [
        f"{load.values:,} values x {codec.sent_bytes:.3f} bytes ({codec.name}, as measured on "
        f"{codec.measured}){part} = {_bytes(choice.num_bytes)} each way, with headers",
        f"down {_sum(choice.num_bytes, link.down_bits, mine.download)}, "
        f"up {_sum(choice.num_bytes, link.up_bits, mine.upload)} ({site}, the slowest)",
        f"compute {choice.steps} {load.unit} x {_time(load.paces[site].step)}"
        + (f" + {_time(fixed)} of validation" if fixed else "")
        + f" = {_time(mine.compute)}",
        f"transfer {_time(choice.transfer)}"
        + (f" - {choice.delay} {load.unit} meanwhile, {_time(hidden)}" if choice.delay else "")
        + f": {_time(choice.exposed)} exposed",
        f"round: compute {_time(mine.compute)} + exposed {_time(mine.exposed)} + decode "
        f"{_time(mine.decode)} + encode {_time(mine.encode)} + join "
        f"{_time(choice.round.join)} = {_time(choice.round.total)}",
        f"{_bytes(2 * choice.num_bytes)} per site and round, {_bytes(choice.bytes_per_day)} a day",
    ]


def plan_record(
    load: Load, codecs: Sequence[CodecCost], present: Choice, all_: Sequence[Choice], share: float
) -> dict[str, Any]:
    """The same for machines: plain values for JSON; seconds, bytes and shares."""
    best = advised(fitting(all_, share))
    return {
        "values": load.values,
        "exact_bytes": load.exact_bytes,
        "period": load.period,
        "unit": load.unit,
        "idle_allowed": share,
        "links": {site: _link(link) for site, link in load.links.items()},
        "aggregator": load.aggregator and _link(load.aggregator),
        "paces": {site: {"step": p.step, "fixed": p.fixed} for site, p in load.paces.items()},
        "codecs": [
            {
                "name": codec.name,
                "raw_bytes_per_value": codec.raw_bytes,
                "bytes_per_value": codec.sent_bytes,
                "error": codec.error,
                "measured": codec.measured,
            }
            for codec in codecs
        ],
        "planned": _choice(present),
        "choices": [_choice(choice) for choice in all_],
        "advised": best and _choice(best),
        "advice": advice(load, all_, share),
    }


def _table(load: Load, all_: Sequence[Choice]) -> list[str]:
    """A line for each codec and H: bytes, transfer and, for each F, the idle share."""
    numbers = sorted({choice.fragments for choice in all_})
    rows: dict[tuple[str, int], dict[int, Choice]] = {}
    for choice in all_:
        rows.setdefault((choice.codec.name, choice.multiple), {})[choice.fragments] = choice
    cells = [
        ["codec", "bytes/value", "error", "H", "both ways", "a day", "transfer"]
        + [f"idle F={number}" for number in numbers]
    ]
    for (name, multiple), row in rows.items():
        first = row[min(row)]
        whole = predict(load, first.codec, multiple=multiple)
        cells.append(
            [
                name,
                f"{first.codec.sent_bytes:.3f}",
                f"{first.codec.error:.2g}",
                f"{load.period * multiple}",
                _bytes(2 * whole.num_bytes),
                _bytes(whole.bytes_per_day),
                _time(whole.transfer),
                *(_percent(row[n].idle) if n in row else "-" for n in numbers),
            ]
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def _unfit(load: Load, all_: Sequence[Choice], share: float) -> list[str]:
    need = needed(load, all_, share)
    ways = []
    if need.width is not None:
        ways.append(f"links {need.width} times as wide")
    if need.multiple is not None:
        ways.append(f"H = {need.multiple * load.period:,} {load.unit}")
    return [
        f"Nothing here keeps idle under {_percent(share)}. The nearest: {_keys(load, need.choice)}",
        *(f"  {line}" for line in arithmetic(load, need.choice)),
        f"  idle {_percent(need.choice.idle)} of a round, allowed {_percent(share)}",
        f"It would do with {' or with '.join(ways)}."
        if ways
        else "Neither wider links nor a longer H would do: encoding and joining take too long.",
    ]


def _keys(load: Load, choice: Choice) -> str:
    """A choice as keys of the plan."""
    keys = [f"codec={choice.codec.name}", f"federation.{load.unit}={choice.steps}"]
    if choice.fragments > 1:
        keys.append(f"federation.streaming.fragments={choice.fragments}")
        keys.append(f"federation.streaming.delay={choice.delay}")
    return " ".join(keys)


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "codec": choice.codec.name,
        "multiple": choice.multiple,
        "steps": choice.steps,
        "fragments": choice.fragments,
        "delay": choice.delay,
        "bytes_one_way": choice.num_bytes,
        "bytes_per_day": choice.bytes_per_day,
        "transfer": choice.transfer,
        "exposed": choice.exposed,
        "join": choice.round.join,
        "round": choice.round.total,
        "idle": choice.idle,
        "slowest": choice.round.slowest,
    }


def _link(link: Link) -> Mapping[str, float]:
    return {"up_bits": link.up_bits, "down_bits": link.down_bits, "latency": link.latency_seconds}


def _sum(num_bytes: float, bits: float, seconds: float) -> str:
    """Bytes over bandwidth; and what it comes to with latency and the aggregator's line."""
    alone = 8 * num_bytes / bits
    text = f"{_bytes(num_bytes)} x 8 / {_rate(bits)} = {_time(alone)}"
    more = "" if seconds < 1.001 * alone else f" ({_time(seconds)} with latency and shared line)"
    return text + more


def _bytes(num_bytes: float) -> str:
    """Decimal units, as bandwidths have them."""
    value, units = num_bytes, iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and (larger := next(units, None)):
        value, unit = value / 1000, larger
    return f"{value:.4g} {unit}"


def _rate(bits: float) -> str:
    unit, name = next((u, n) for u, n in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (0, "")) if bits >= u)
    return f"{bits / (unit or 1):g} {name}bit/s"


def _time(seconds: float) -> str:
    return "0 s" if seconds < 5e-4 else duration(seconds)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
