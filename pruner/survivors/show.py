"""The words that survive in the sentences of a run: printed, drawn, and written as a page."""

import argparse
import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import transformers

from pruner.data.cache import cache_path, read_cache
from pruner.data.rows import check_text
from pruner.data.task import TASKS
from pruner.report.collection import find
from pruner.report.figures import check_matplotlib
from pruner.report.records import read_record
from pruner.report.tables import method_name, plural, schedule_text
from pruner.survivors.picture import draw_survivors
from pruner.survivors.readers import BETWEEN, Reader, Survivors, load_reader
from pruner.survivors.views import page, terminal
from pruner.utils.errors import UserError
from pruner.utils.files import write_whole


def newest_run(root: Path) -> Path:
    """The run below ``root`` that was finished last and has kept its model."""
    found = []
    for path in find(root) if root.is_dir() else ():
        with suppress(UserError):
            record = read_record(path.parent)
            if record and record.get("model_folder"):
                found.append((path.stat().st_mtime_ns, path.parent))
    if not found:
        raise UserError(f"{root}: no finished run with a kept model; run RunBert4Glue.py first, or name a run's folder")
    return max(found)[1]


def read_run(run: Path) -> tuple[Path, dict]:
    """The kept model of a run, and its record; of a model's own folder, what its place tells of its task."""
    if not (run / "record.json").is_file():
        if not (run / "config.json").is_file():
            raise UserError(f"{run}: neither a record's folder nor a model's; name one, as records/BERT/mrpc/RUN")
        return run, {"task": run.resolve().parent.name, "settings": {}}
    record = read_record(run)
    if record is None:
        raise UserError(f"{run}: not finished; start its run script again")
    folder = record.get("model_folder")
    if not isinstance(folder, str):
        raise UserError(f"{run}: its model was not kept; run it again with --force and without --discard-models")
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: the model of {run} is not there; go to where it was run, or name its folder")
    return Path(folder), record


def dev_sentences(reader: Reader, model: Path, task: str, folder: str | None, number: int) -> list[Survivors]:
    """Of the first sentences of the task's first dev set."""
    places = [Path(folder)] if folder else [*model.resolve().parents[2:3], Path("cache", reader.kind)]
    place = next((place for place in places if cache_path(place, task).is_file()), places[-1])
    prepare = f"{reader.prepare}, or name the cache folder with --cache"
    cache = read_cache(place, task, reader.kind, reader.fingerprint, prepare)
    split = cache.splits[TASKS[task].dev[0] if task in TASKS else "dev"]
    assert split.labels is not None  # caches without them are not read
    return [
        reader.survivors(reader.prepared(split, row), float(split.labels[row]))
        for row in range(min(number, len(split)))
    ]


def own_sentences(reader: Reader, task: str, texts: list[str], seconds: list[str]) -> list[Survivors]:
    """Of what the user has written."""
    pairs = task in TASKS and len(TASKS[task].text) == 2
    if len(seconds) != len(texts) and (seconds or pairs):
        what = f"{len(texts)} first sentences and {len(seconds)} second ones"
        raise UserError(f"--second: {what}; give one of each for a pair")
    found = []
    for number, text in enumerate(texts):
        second = seconds[number] if seconds else None
        for each in (text, second or ""):
            check_text(each.encode(errors="surrogateescape"), "--sentence")
        sentence = reader.read(text, second)
        if {word for word, _ in sentence.words} <= {"[CLS]", "[SEP]", BETWEEN}:
            raise UserError(f"--sentence: no words in {text!r}")
        found.append(reader.survivors(sentence))
    return found


def write_survivors(folder: Path, title: str, found: list[Survivors]) -> list[str]:
    """Write data, page and pictures into ``folder``; what is to be said of it."""
    said = []
    data = {"title": title, "sentences": [asdict(each) for each in found]}
    files = {"survivors.json": json.dumps(data, indent=1, ensure_ascii=False).encode(errors="replace")}
    files["survivors.html"] = page(title, found).encode(errors="replace")
    try:
        check_matplotlib()
        for number, each in enumerate(found, start=1):
            contents, missing = draw_survivors(each)
            files |= {f"survivors-{number}.{kind}": content for kind, content in contents.items()}
            if missing:
                said.append(
                    f"no font of this machine has {missing}: boxes in survivors-{number}, the page is not affected"
                )
    except UserError as error:
        said.append(f"no pictures: {error}")
    for name, content in files.items():
        write_whole(folder / name, content)
    for old in folder.glob("survivors-*.*"):
        if old.name not in files:
            old.unlink()
    pictures = sum(name.endswith(".png") for name in files)
    more = f" and {plural(pictures, 'picture')}, as PNG and SVG" if pictures else ""
    return [*said, f"-> {folder / 'survivors.html'}{more}"]


def show(args: argparse.Namespace) -> None:
    """Show the sentences that the flags name."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    run = Path(args.run) if args.run else newest_run(Path("records"))
    folder, record = read_run(run)
    task = record["task"]
    reader = load_reader(folder, record["settings"].get("max_length"))
    name = f"{method_name(record)} {schedule_text(record)}" if "method" in record else run.name
    title = f"{task}: {name}"
    print(f"{title} ({run})\n")
    if args.sentence:
        found = own_sentences(reader, task, args.sentence, args.second)
    else:
        found = dev_sentences(reader, folder, task, args.cache, args.dev)
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for each in found:
        print(terminal(each, colours))
    print("\n".join(write_survivors(Path(args.output) if args.output else run, title, found)))
