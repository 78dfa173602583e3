"""Records of version 1, which had no title and left it to their readers how a schedule was made."""

from typing import Any


def upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """Return a record of version 1 with the keys of version 2. Nothing else infers anything from a record's numbers.

    Raises:
        LookupError, TypeError, ValueError: it is none.
    """
    bert, pruned = old["model"] == "bert", old["method"] != "baseline"
    # Settings that some records are older than, as they were before there was a choice.
    settings: dict[str, Any] = {"dtype": "auto"}
    if bert and pruned:
        settings |= {"start": "pretrained", "reach": None, "search": None}
    settings |= old["settings"]
    rates = old["schedule"] if bert else [old["target_prune_rate"]]
    target, search = old.get("target_flops_reduction"), settings.get("search", {})
    source = "given"
    if bert and old["schedule_source"] == "learned":
        source = "soft-extract" if search else "sampled"
    elif target:
        source = "uniform" if any(rates[1:]) else "first"
    variant = ",".join(f"{rate:g}" for rate in rates)
    if not pruned:
        variant = "unpruned"
    elif source in ("sampled", "soft-extract"):
        way = "learned" if source == "sampled" else source
        variant = f"{way} for {target:g}x" if target else f"lambda {search['penalty']:g}"
    if (pruned and old["latency"] is None) or ("schedule" in old and not bert):
        raise ValueError("not as version 1 was written")
    title = f"{old['method']} of {old['teacher']}" if old["teacher"] else old["method"]
    return old | {
        "title": title + (" (padded count)" if old["count"] == "padded" else ""),
        "variant": variant,
        "schedule_source": source,
        "tokens": {"kept_by_layer": []} | old["tokens"],
        "metrics_by_length": old.get("metrics_by_length") or [],
        "settings": settings,
    }
