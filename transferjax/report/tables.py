"""Rankings as text and as files."""

from __future__ import annotations

import json
import os

import pandas as pd

from transferjax._files import atomic_write
from transferjax.evaluation import static
from transferjax.types import ScoreTable

_CSV_COLUMNS = ["source", "target", "metric", "score", "rank"]
_BOUNDS = ["lower", "upper"]
_SURE = 0.95  # how often the best source has to be so in resamples for its lead to be called clear


def ranking_text(table: ScoreTable) -> str:
    """Returns an aligned table: rank, source and one column per metric, best source first.

    Where intervals were computed, the leading metric's stand beside it, with how often each source is the best.
    """
    wide = table.wide()
    leading = wide.columns[0]
    rows = table.rows[table.rows["metric"] == leading].set_index("source").loc[wide.index]
    shown = pd.DataFrame({"rank": rows["rank"], "source": wide.index})
    uncertainty = table.details.get("uncertainty")
    for metric in wide.columns:
        whole = metric in static.NAMES and bool((wide[metric].dropna() % 1 == 0).all())
        shown[metric] = [_number(value, whole=whole) for value in wide[metric]]
        if uncertainty and metric == leading:
            bounds = zip(rows["lower"], rows["upper"], strict=True)
            shown["95%"] = [f"{_number(lower)}..{_number(upper)}" for lower, upper in bounds]
            shown["P(best)"] = [f"{uncertainty['probability_best'][source]:.2f}" for source in wide.index]
    return shown.to_string(index=False)


def verdict(table: ScoreTable) -> str:
    """Returns which source to fine-tune and how clear its lead is; and, if it was computed, how sure."""
    sure = _sureness(table)
    return f"{_advice(table)} {sure}".rstrip()


def _advice(table: ScoreTable) -> str:
    wide = table.wide()
    leading = str(wide.columns[0])
    lead = table.details.get("lead")
    tied = list(wide.index[wide[leading] == wide[leading].max()])
    if len(tied) > 1:
        top = _number(wide[leading].max())
        return f"No lead: {', '.join(tied)} share the first rank by {leading} ({top}); fine-tune each of them."
    if lead is None:
        best, second = wide.index[0], wide.index[1]
        return (
            f"By {leading} alone, fine-tune {best} ({_number(wide[leading].iloc[0])}), ahead of {second} "
            f"({_number(wide[leading].iloc[1])}); feature_quality and gradient_ratio together give the combined score."
        )
    best, second = lead["best"], lead["second"]
    agreeing = [way for way, first in lead["first_by_method"].items() if first == [best]]
    ways, left_out, stays = len(lead["first_by_method"]), lead["left_out"], lead["stays_first_when_one_is_left_out"]
    rivals = _listed([*lead["rivals"], *(name for name in _likely(table, best) if name not in lead["rivals"])])
    advice = f"a lead that is not clear, so fine-tune {rivals} too" if rivals else "a clear lead"
    robust = f"it is first in {len(agreeing)} of {ways} ways of combining"
    if left_out:
        robust += f" and stays first in {stays} of {left_out} lists with one other candidate left out"
    control = " It is an untrained control: no source has shown its worth here." if _is_control(table, best) else ""
    return (
        f"Fine-tune {best}: {leading} {wide[leading].iloc[0]:.3f}, ahead of {second} by {lead['gap']:.3f}; "
        f"{robust}: {advice}.{control}"
    )


def _likely(table: ScoreTable, best: str) -> list[str]:
    """Returns which other sources may well be the best, likeliest first: none if `best` is so nearly always."""
    uncertainty = table.details.get("uncertainty")
    if not uncertainty or uncertainty["probability_best"][best] >= _SURE:
        return []
    others = {name: share for name, share in uncertainty["probability_best"].items() if name != best}
    return [name for name, share in others.items() if share > 1 - _SURE] or [max(others, key=lambda name: others[name])]


def _sureness(table: ScoreTable) -> str:
    uncertainty = table.details.get("uncertainty")
    if not uncertainty:
        return ""
    first, *others = uncertainty["probability_best"].items()
    shares = [f"{name} {share:.2f}" for name, share in others if share >= 0.005]
    against = f"; {_listed(shares)}" if shares else ""
    return (
        f"In {uncertainty['num_resamples']} resamples of the target's examples, the best by {uncertainty['metric']} is "
        f"{first[0]} with probability {first[1]:.2f}{against}."
    )


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def write_csv(table: ScoreTable, path: str | os.PathLike[str]) -> None:
    """Writes source, target, metric, score and rank, one row each; numbers with all their digits.

    And `lower` and `upper`, where an interval was computed for any.
    """
    columns = _CSV_COLUMNS + (_BOUNDS if table.rows[_BOUNDS].notna().any(axis=None) else [])
    with atomic_write(path) as temporary:
        table.rows[columns].to_csv(temporary, index=False, lineterminator="\n")


def write_json(table: ScoreTable, path: str | os.PathLike[str]) -> None:
    """Writes the rows and all that is known of how they were made."""
    rows = table.rows.astype(object).where(table.rows.notna(), None).to_dict(orient="records")
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"scores": rows, "verdict": verdict(table), **table.details}, indent=1) + "\n")


def _is_control(table: ScoreTable, source: str) -> bool:
    return table.details["sources"][source]["num_train_examples"] == 0


def _number(value: float, *, whole: bool = False) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:,.0f}" if whole else f"{value:.3f}"
