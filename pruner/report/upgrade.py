"""Records of version 1, which had no title, and no word for how a schedule was made: it is inferred here alone."""

from typing import Any


def upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the keys of version 2; raise a LookupError, TypeError or ValueError if it is none."""
    bert, pruned = old["model"] == "bert", old["method"] != "baseline"
    if (pruned and old["latency"] is None) or ("schedule" in old and not bert):
        raise ValueError("not as version 1 was written")
    # Settings that some records are older than, as they were before there was a choice.
    more = {"start": "pretrained", "reach": None, "search": None} if bert and pruned else {}
    settings: dict[str, Any] = {"dtype": "auto"} | more | old["settings"]
    rates = old["schedule"] if bert else [old["target_prune_rate"]]
    target, search, source = old.get("target_flops_reduction"), settings.get("search", {}), "given"
    if bert and old["schedule_source"] == "learned":
        source = "soft-extract" if search else "sampled"
    elif target:
        source = "uniform" if any(rates[1:]) else "first"
    variant = ",".join(f"{rate:g}" for rate in rates) if pruned else "unpruned"
    if pruned and source in ("sampled", "soft-extract"):
        way = "learned" if source == "sampled" else source
        variant = f"{way} for {target:g}x" if target else f"lambda {search['penalty']:g}"
    title = f"{old['method']} of {old['teacher']}" if old["teacher"] else old["method"]
    return old | {
        "title": title + (" (padded count)" if old["count"] == "padded" else ""),
        "variant": variant,
        "schedule_source": source,
        "tokens": {"kept_by_layer": []} | old["tokens"],
        "metrics_by_length": old.get("metrics_by_length") or [],
        "settings": settings,
    }
