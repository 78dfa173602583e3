"""How a script ends when something is wrong that is not its own fault."""

import errno
import io
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from pruner.utils import errors
from pruner.utils.errors import UserError, outcome
from pruner.utils.progress import Progress


def ends(capsys, main, packages=()) -> tuple[int, str]:
    return outcome(main, packages), capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "found"), [("torch", "2.10.1"), ("torch", "3.0.0"), ("transformers", "4.57.1"), ("transformers", "6.0")]
)
def test_an_unsupported_version_is_named_before_anything_is_imported(capsys, monkeypatch, package, found):
    monkeypatch.setattr(errors, "version", lambda name: found if name == package else "99")
    code, err = ends(capsys, lambda: pytest.fail("it was started"), [package])
    assert code == 2
    wanted = errors.SUPPORTED[package]
    assert err == f"error: {package} {found}: this code needs {wanted}; run pip install -r requirements.txt\n"


@pytest.mark.parametrize("found", ["2.11.0", "2.13.0+cpu", "2.15.0", "2.99.0a0+git1234"])
def test_versions_between_are_taken_as_they_are(monkeypatch, found):
    monkeypatch.setattr(errors, "version", lambda name: found)
    started = []
    assert outcome(lambda: started.append(True), ["torch"]) == 0
    assert started


def test_a_missing_package_and_an_old_python_are_named(capsys, monkeypatch):
    monkeypatch.setitem(errors.SUPPORTED, "no-such-package", ">=1")
    code, err = ends(capsys, lambda: None, ["no-such-package"])
    assert (code, err) == (2, "error: no-such-package: not installed; run pip install -r requirements.txt\n")
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    code, err = ends(capsys, lambda: None)
    assert code == 2
    assert "this code needs 3.11 or newer" in err


@pytest.mark.parametrize("script", ["RunBert4Glue", "RunLstm4Glue", "RunLstm4Agnews"])
def test_run_scripts_check_versions_before_the_libraries_are_imported(tmp_path, script):
    """A torch that is too old for this code may fail in any way when it is imported."""
    (tmp_path / "torch-2.1.0.dist-info").mkdir()
    (tmp_path / "torch-2.1.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.1.0\n", encoding="utf-8")
    (tmp_path / "torch.py").write_text("raise RuntimeError('an old one')", encoding="utf-8")
    command = [sys.executable, str(ROOT / f"{script}.py"), "--demo"]
    found = subprocess.run(
        command,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert found.stderr.startswith("error: torch 2.1.0: this code needs ")
    assert found.stderr.count("\n") == 1


def test_a_full_disk_where_nobody_looked_for_it_is_one_line(capsys):
    def main():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "records/BERT")

    code, err = ends(capsys, main)
    assert code == 2
    assert err == "error: [Errno 28] No space left on device: 'records/BERT'\n"


def test_several_lines_become_one(capsys):
    def main():
        raise UserError("bert: cannot\n   be loaded")

    assert ends(capsys, main) == (2, "error: bert: cannot be loaded\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_is_utf8_on_any_console(encoding):
    code = "from pruner import run_script; run_script(lambda: print('80.9 ± 0.1, 中'))"
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], check=False, env=environment, capture_output=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.decode("utf-8").strip() == "80.9 ± 0.1, 中"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize(
    ("script", "library"),
    [
        ("RunBert4Glue", "torch"),
        ("PrepareGlue4Bert", "numpy"),
        ("RunLstm4Agnews", "tqdm"),  # which this code's own modules take
        ("ConvertBert4Torch", "packaging"),
        ("pruner.clean", "filelock"),
        ("pruner.measure", "argparse"),
        ("pruner.report", "pandas"),
        ("pruner.survivors", "packaging"),
    ],
)
def test_ctrl_c_while_the_libraries_are_imported_is_one_line(tmp_path, script, library):
    (tmp_path / f"{library}.py").write_text("import time; print('importing', flush=True); time.sleep(60)", "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=900)
    assert process.returncode in (130, -signal.SIGINT)  # both are 130 for a shell
    assert err == "stopped: run the same command again, finished work is kept\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_though_a_thread_does_not():
    """As a library's pool of threads, interrupted while it held a lock of its own."""
    code = (
        "import threading, time; from pruner import run_script\n"
        "def main():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise KeyboardInterrupt\n"
        "run_script(main)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, timeout=900)
    assert found.returncode == 130


HOSTILE = "a\x1b[2J\x9b1m\u202eb\r\x07\udc80"
SHOWN = "a\\x1b[2J\\x9b1m\\u202eb\\r\\x07\\udc80"


def test_nothing_that_is_printed_steers_the_terminal(capsys):
    def main():
        print(f"{HOSTILE}\nsecond line")
        sys.stderr.write(f"{HOSTILE.replace(chr(13), '')}\n")
        raise UserError(f"{HOSTILE}: use another")

    assert outcome(main) == 2
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\nsecond line\n"
    assert err.splitlines() == [SHOWN.replace("\\r", ""), f"error: {SHOWN.replace(chr(92) + 'r', ' ')}: use another"]


def test_bars_are_drawn_over_each_other(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def main():
        for _ in Progress([1], unit="row"):
            Progress([1], unit="batch").close()

    monkeypatch.setattr(sys, "stderr", Terminal())
    screen = sys.stderr
    assert outcome(main) == 0
    assert "\r" in screen.getvalue()
    assert "\x1b[A" in screen.getvalue()
    assert "\\" not in screen.getvalue()


@pytest.mark.parametrize(
    "message",
    [
        "x" * 5000 + ": no such file; use another",
        "/" + "/".join(["folder"] * 200) + ": no such file; use another",
        "a b " * 2000 + "; use another",
        "start: " + ", ".join(["\x1b"] * 500) + "; use another",
    ],
)
def test_a_line_is_short_and_still_says_what_to_do(capsys, message):
    def main():
        raise UserError(message)

    err = ends(capsys, main)[1]
    assert len(err) <= errors.LONGEST + 1
    assert err.startswith(f"error: {message[:5]}".replace("\x1b", "\\x1b"))
    assert err.endswith("; use another\n")
    assert "..." in err


def test_a_reader_that_has_left_ends_it_quietly():
    code = "from pruner import run_script; run_script(lambda: [print(number) for number in range(99999)])"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_output_that_has_no_room_is_one_line():
    code = "from pruner import run_script; run_script(lambda: print('x'))"
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, check=False, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (found.returncode, found.stderr) == (2, "error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError("libx.so: cannot allocate memory in static TLS block"),
        RuntimeError("can't start new thread"),
        SystemError("error return without exception set"),
    ],
)
def test_too_little_memory_is_one_line_also_while_libraries_are_imported(capsys, error):
    def main():
        raise error

    assert ends(capsys, main) == (2, "error: out of memory; close other programs, or use a machine with more\n")


@pytest.mark.parametrize("error", [ImportError("no such module"), RuntimeError("shapes differ"), SystemError("x")])
def test_what_is_a_fault_of_this_code_is_not_hidden(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        outcome(main)


@pytest.mark.parametrize("error", ["MemoryError", "ImportError('failed to map segment')", "KeyboardInterrupt"])
def test_nothing_can_be_imported(tmp_path, error):
    (tmp_path / "tqdm.py").write_text(f"raise {error}", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "pruner.report"]
    found = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == (130 if error == "KeyboardInterrupt" else 2)
    assert found.stderr.count("\n") == 1
