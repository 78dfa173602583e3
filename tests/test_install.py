"""Installed: the wheel, what it asks for, and the README's first example far from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import ROOT, small_bert, small_config
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from transformers import BertForSequenceClassification

from pruner import __version__
from pruner.utils.errors import OLDEST_PYTHON, SUPPORTED

HEAVY = {"tensorflow", "matplotlib", "tensorboard", "pytest"}  # what nobody needs who prunes a model


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: setuptools leaves folders beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.check_output(["git", "ls-files", "-z", ":!records"], cwd=ROOT, text=True, encoding="utf-8")
    for name in filter(None, tracked.split("\0")):
        copy = folder / "copy" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
    pip("wheel", str(folder / "copy"), "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode("utf-8"))


def required(metadata, extra: str) -> dict[str, Requirement]:
    """What an install with that extra asks for, and one without does not; with ``""``, what every one does."""
    found = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    return {
        item.name: item
        for item in found
        if (item.marker is None and not extra) or (item.marker and item.marker.evaluate({"extra": extra}))
    }


def installed(wheel, tmp_path) -> dict[str, str]:
    """Install the wheel into a folder of its own; return an environment whose Python finds this folder alone."""
    pip("install", "--no-deps", "--no-index", "--target", str(tmp_path / "target"), str(wheel))
    return os.environ | {"PYTHONPATH": str(tmp_path / "target")}


def python(*arguments: str, folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, *arguments]
    result = subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_holds_the_code_and_nothing_else(wheel):
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    code = {path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.py"), *ROOT.glob("pruner/**/*.py")]}
    assert held == code


def test_a_plain_install_is_light(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("sequence-pruning", __version__)
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(">={}.{}".format(*OLDEST_PYTHON))
    plain = required(metadata, "")
    assert not HEAVY & plain.keys()
    for name, versions in SUPPORTED.items():
        assert plain[name].specifier == SpecifierSet(versions), name
    assert set(metadata.get_all("Provides-Extra")) == {"figures", "tables", "tensorboard", "tensorflow", "test"}
    assert required(metadata, "figures").keys() == {"matplotlib"}
    assert required(metadata, "tensorboard").keys() == {"tensorboard"}
    assert required(metadata, "tensorflow").keys() == {"tensorflow"}
    assert "pytest" in required(metadata, "test")


def test_what_is_pinned_is_what_an_install_takes(metadata):
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", text, flags=re.MULTILINE))
    asked = required(metadata, "")
    for extra in metadata.get_all("Provides-Extra"):
        asked |= required(metadata, extra)
    assert asked.keys() == pins.keys()
    for name, item in asked.items():
        assert item.specifier.contains(pins[name]), name


def test_an_installed_copy_prunes_your_own_model_in_any_folder(wheel, tmp_path):
    environment, folder = installed(wheel, tmp_path), tmp_path / "elsewhere"
    small_bert(folder / "my-bert", num_hidden_layers=12)
    config = small_config(num_hidden_layers=12, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    BertForSequenceClassification(config).save_pretrained(folder / "my-bert")
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    code = "\n".join(["texts = ['a fine film .', 'the plot is dull', 'good actor'] * 8", *examples])
    code += "\nimport ModifiedModelingBert, pruner\nprint(ModifiedModelingBert.__file__, pruner.__file__)\n"
    *_, answers, files = python("-c", code, folder=folder, environment=environment).splitlines()
    assert re.search(r"'label': '(bad|good)', 'score'", answers)
    assert all(path.startswith(str(tmp_path / "target")) for path in files.split())


def test_an_installed_copy_has_the_modules_with_a_command(wheel, tmp_path):
    """It is of no commit, though it lies in somebody's checkout."""
    environment = installed(wheel, tmp_path)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "theirs"], cwd=tmp_path, check=True)
    (tmp_path / "elsewhere").mkdir()
    for option, shown in (("--help", "--lengths"), ("--version", f"{__version__} (no checkout)")):
        out = python("-m", "pruner.measure", option, folder=tmp_path / "elsewhere", environment=environment)
        assert shown in out


def test_every_script_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["setuptools"]["py-modules"] == sorted(path.stem for path in ROOT.glob("*.py"))


WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in ("tensorflow", "keras", "matplotlib", "tensorboard"):
            return super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


def test_the_optional_packages_are_optional(tmp_path):
    """Where none of them is installed, both models' runs are there, the words of the LSTM, and tables."""
    run = tmp_path / "records" / "BERT" / "demo" / "head"
    run.mkdir(parents=True)
    (record,) = (ROOT / "records/published/BERT/demo").glob("head_*/record.json")
    shutil.copy(record, run)
    code = """
import runpy
import pruner.experiments.bert, pruner.experiments.lstm, pruner.data.prepare
from pruner.data.vocabulary import learn_vocabulary
assert learn_vocabulary(["A word, a word!"], 10).words == ("word", "a")
sys.argv = ["report"]
runpy.run_module("pruner.report", run_name="__main__")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    python("-c", WITHOUT + code, folder=tmp_path, environment=environment)
    assert "head" in (tmp_path / "records" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "records" / "figures").exists()
