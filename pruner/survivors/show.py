"""The words that survive in the sentences of a run: printed, drawn, and written as a page."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

import transformers

from pruner.compress.tokens.schedule import schedule_text
from pruner.data.cache import cache_path, read_cache
from pruner.data.rows import check_text
from pruner.data.task import TASKS
from pruner.report.figures import missing_matplotlib
from pruner.report.records import Record, read_record, read_records
from pruner.report.tables import metric_text, plural
from pruner.survivors.kept import KeptModel, Survivors, load_kept
from pruner.survivors.picture import draw_survivors
from pruner.survivors.views import NORMAL, STRUCK, page, terminal
from pruner.utils.errors import UserError
from pruner.utils.files import write_whole
from pruner.utils.screen import print_coloured
from pruner.utils.text import clean, printable, recorded_path, shorten


def newest_run(root: Path) -> Path:
    """Find the run below ``root`` that was finished last and has kept its model."""
    records = read_records(root)[0] if root.is_dir() else {}
    runs = [root / name for name, record in records.items() if record.model_folder]
    if not runs:
        raise UserError(f"{root}: no finished run with a kept model; run RunBert4Glue.py first, or name a run's folder")
    return max(runs, key=lambda run: ((run / "record.json").stat().st_mtime_ns, run))


def read_run(run: Path) -> tuple[Path, Record | None]:
    """Return the kept model of a run, and its record; a model's own folder has none."""
    if not (run / "record.json").is_file():
        if not (run / "config.json").is_file():
            raise UserError(f"{run}: neither a record's folder nor a model's; name one, as records/BERT/mrpc/RUN")
        return run, None
    record = read_record(run)
    if record is None:
        raise UserError(f"{run}: not finished; start its run script again")
    if record.model_folder is None:
        raise UserError(f"{run}: its model was not kept; run it again with --force and without --discard-models")
    folder = Path(recorded_path(record.model_folder))
    if not folder.is_dir():
        raise UserError(f"{folder}: the model of {run} is not there; go to where it was run, or name its folder")
    return folder, record


def dev_sentences(model: KeptModel, folder: Path, task: str, cache_name: str | None, number: int) -> list[Survivors]:
    """Look at the first sentences of the task's first dev set; ``folder`` is the model's."""
    kind = model.model.plain_class.config_class.model_type  # is what caches call it too
    places = [Path(cache_name)] if cache_name else [*folder.resolve().parents[2:3], Path("cache", kind)]
    place = next((place for place in places if cache_path(place, task).is_file()), places[-1])
    prepare = f"PrepareGlue4{kind.title()}.py, or name the cache folder with --cache"
    cache = read_cache(place, task, kind, model.tokenizer.fingerprint, prepare)
    split = cache.splits[TASKS[task].dev[0] if task in TASKS else "dev"]
    assert split.labels is not None  # caches without them are not read
    rows = range(min(number, len(split)))
    return [model.survivors(model.prepared(split, row), float(split.labels[row])) for row in rows]


def own_sentences(model: KeptModel, task: str, texts: list[str], seconds: list[str]) -> list[Survivors]:
    """Look at what the user has written."""
    pairs = task in TASKS and len(TASKS[task].text) == 2
    if len(seconds) != len(texts) and (seconds or pairs):
        numbers = f"{len(texts)} first sentences and {len(seconds)} second ones"
        raise UserError(f"--second: {numbers}; give one of each for a pair")
    sentences = []
    for text, second in zip_longest(texts, seconds):
        for part in (text, second or ""):
            check_text(part.encode(errors="surrogateescape"), "--sentence")
        sentence = model.read(text, second)
        if {word for word, _ in sentence.words} <= {"[CLS]", "[SEP]"}:
            raise UserError(f"--sentence: no words in {text!r}; give some")
        sentences.append(model.survivors(sentence))
    return sentences


def about(model: KeptModel, folder: Path, task: str, record: Record | None, run: Path) -> dict[str, str]:
    """Say what the page is of: model, task and method; of a recorded run also its metrics, what it saves and where."""
    pruning = model.model.pruning
    schedule = schedule_text(pruning.schedule)
    told = {"model": f"{model.model.plain_class.config_class.model_type}, {folder}", "task": task}
    if record is None:
        return told | {"method": f"{pruning.method}, {schedule}"}
    told |= {"method": f"{record.title}, {record.variant}", "schedule": schedule, "seed": str(record.seed)}
    told["metric"] = f"{metric_text([record.metrics])} (unpruned: {metric_text([record.baseline_metrics])})"
    saved = {
        "tokens not computed": f"{record.section['tokens']['effective_rate']:.1%}"
        if "tokens" in record.section
        else "",
        "FLOPs reduction": f"{record.flops['reduction']:.2f}x",
        "speed-up": f"{record.latency['speedup']:.2f}x" if record.latency else "",
    }
    told["saved"] = ", ".join(f"{name} {text}" for name, text in saved.items() if text)
    return told | {"record": str(run / "record.json")}


def write_survivors(folder: Path, title: str, told: dict[str, str], sentences: list[Survivors]) -> None:
    """Write data, page and pictures into ``folder``; print what is there."""
    title, told = clean(title), clean(told)
    data = {"title": title, "about": told, "sentences": [clean(asdict(sentence)) for sentence in sentences]}
    files = {"survivors.json": json.dumps(data, indent=1, ensure_ascii=False).encode()}
    files["survivors.html"] = page(title, told, sentences).encode()
    problem = missing_matplotlib()
    if problem:
        print(f"no pictures: {problem}")
    for number, sentence in enumerate([] if problem else sentences, start=1):
        name = f"survivors-{number}"
        picture, missing = draw_survivors(sentence)
        files |= {f"{name}.{kind}": content for kind, content in picture.items()}
        if missing:
            letters = shorten(printable(missing), 40)
            print(f"no font of this machine has {letters}: boxes in {name}, the page is not affected")
    for name, content in files.items():
        write_whole(folder / name, content)
    for old in folder.glob("survivors-*.*"):
        if old.name not in files:
            old.unlink()
    more = "" if problem else f" and {plural(len(sentences), 'picture')}, as PNG and SVG"
    print(f"-> {printable(str(folder / 'survivors.html'))}{more}")


def show(args: argparse.Namespace) -> None:
    """Show the sentences that the flags name."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    run = Path(args.run) if args.run else newest_run(Path("records"))
    folder, record = read_run(run)
    task = record.task if record else run.resolve().parent.name
    model = load_kept(folder, record.settings.get("max_length") if record else None)
    title = f"{task}: " + (f"{record.title} {record.variant}" if record else run.name)
    print(f"{printable(f'{title} ({run})')}\n")
    if args.sentence:
        sentences = own_sentences(model, task, args.sentence, args.second)
    else:
        sentences = dev_sentences(model, folder, task, args.cache, args.dev)
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for sentence in sentences:
        print_coloured(terminal(sentence, colours), (STRUCK, NORMAL))
    told = about(model, folder, task, record, run)
    write_survivors(Path(args.output) if args.output else run, title, told, sentences)
