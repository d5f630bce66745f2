"""What a terminal shows: lines no longer than it is wide, no escape codes where none are wanted, and pipes that close."""

import io
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

import nearlin as nl
from nearlin.experiments import folders
from nearlin.linalg import Rates

cell_len = pytest.importorskip("rich.cells").cell_len
click = pytest.importorskip("click")
CliRunner = pytest.importorskip("click.testing").CliRunner
commands = pytest.importorskip("nearlin.experiments.commands")
tables = pytest.importorskip("nearlin.experiments.tables")
progress = pytest.importorskip("nearlin.experiments.progress")
pytest.importorskip("sklearn")

WIDTHS = pytest.mark.parametrize("width", [60, 80, 200])
X, Y = nl.data.sphere(n=24, d=3, seed=1)
NAMES = ("a target of which nobody knows why it has such a long name", "高さ" * 20)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A folder of files to name, as the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = [
        f"{a},{b},{c},{1e12 * y},{NAMES[int(y > 0)]} {'x' * (i % 3)}\n" for i, ((a, b, c), y) in enumerate(zip(X, Y, strict=True))
    ]
    (tmp_path / "h.csv").write_text("".join([f"a,b,c,{NAMES[0]},kind\n", *rows]))
    np.savez(tmp_path / "xy.npz", x=X, y=Y)


def nearlin(*arguments, width=None):
    env = None if width is None else {"COLUMNS": str(width)}
    return CliRunner().invoke(commands.cli, [str(argument) for argument in arguments], env=env)


def too_long(text, width):
    """The lines that do not fit: of wide characters each takes two columns."""
    return [line for line in text.splitlines() if cell_len(line) > width]


def test_a_line_that_does_not_fit_is_seen():
    assert too_long("a" * 61 + "\n" + "高" * 31 + "\n" + "b" * 60 + "\n" + "高" * 30, 60) == ["a" * 61, "高" * 31]


SMALL = ("--width", 16, "--steps", 3)
LONG = ("train", "xy.npz", "--optimizer", "sgd", "--width", 4, "--steps", 50, "--tol", 0, "--out", "run")
SHOWN = {
    "near-linear": [("train", "xy.npz", *SMALL)],
    "sgd": [("train", "xy.npz", "--optimizer", "sgd", "--lr", "1e-6", *SMALL)],
    "blown up": [("train", "xy.npz", "--optimizer", "sgd", "--lr", "1e200", *SMALL)],
    "long names": [
        ("train", "h.csv", "--target", NAMES[0], "--hidden", 4, "--task", "regression", "--steps", 2),
        ("train", "h.csv", "--target", "kind", "--steps", 2),
    ],
    "planned": [("train", "digits", "--optimizer", "gauss-newton", "--steps", 2)],
    "long": [LONG, ("report", "run")],
    "compare": [
        ("compare", "xy.npz", "--seeds", 2, "--optimizers", "near-linear-gauss-newton,adam", *SMALL),
        ("compare", "digits", "--seeds", 2, "--optimizers", "mini-block-fisher,sgd", "--steps", 2),
    ],
    "tune": [("tune", "xy.npz", "--optimizers", "gram-gauss-newton,adam", "--runs", 4, *SMALL)],
    "verify": [("verify", "--only", "gram-quadratic-in-samples,step-linear-in-width,natural-gradient-rate")],
    "estimate": [
        ("estimate", "digits-4v9", "--width", 65536),
        ("estimate", "--rows", 100, "--features", 5, "--outputs", 3, "--hidden", "8,8"),
        ("estimate", "--rows", 100, "--features", 5, "--optimizer", "gauss-newton"),
    ],
    "info": [("info",), ("info", "--measure", "--out", "rates.json")],
    "predict": [("train", "xy.npz", "--out", "run", *SMALL), ("predict", "run/checkpoint.npz", "xy.npz", "--out", "p.csv")],
}


@WIDTHS
@pytest.mark.parametrize("case", SHOWN)
def test_every_line_fits(case, width, monkeypatch):
    monkeypatch.setattr(commands, "measure_rates", lambda backend, progress: Rates())
    for arguments in SHOWN[case]:
        done = nearlin(*arguments, width=width)
        assert done.exit_code in (0, 1), done.output
        assert done.stdout.strip()
        assert too_long(done.stdout, width) == []


@WIDTHS
@pytest.mark.parametrize("name", sorted(commands.cli.commands))
def test_every_line_of_the_help_fits_but_commands_to_copy(name, width):
    command = commands.cli.commands[name]
    text = command.get_help(click.Context(command, info_name=name, terminal_width=width - 2))
    assert [line for line in too_long(text, width) if not line.startswith("    nearlin ")] == []


VALUES = (1.0, 1e300, -5e-324, math.nan, -math.inf, 0.0, None)
COLUMNS = (
    tables.Column("name", 0, align="left"),
    *(tables.Column(f"number {i}", i + 1, "{:.3e}") for i in range(len(VALUES))),
    tables.Column("a text", len(VALUES) + 1, align="fold"),
    tables.Column("wide 高さ", len(VALUES) + 2, lambda value: "高" * value, align="left"),
)


def columns():
    return [column._replace(get=lambda row, i=column.get: row[i]) for column in COLUMNS]


ROWS = [
    ("short", *VALUES, "some words, ever the same, " * 4, 3),
    ("a-name-that-is-by-far-longer-than-half-a-narrow-terminal", *VALUES[::-1], "", 90),
    ("名前" * 20, *VALUES, "onyx" * 50, 0),
]


@pytest.mark.parametrize("width", [*range(20, 130, 5), 200, 1000])
def test_a_table_of_any_values_fits_and_loses_nothing(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    tables.console(stream).print(tables.table(columns(), ROWS))
    text = stream.getvalue()
    assert too_long(text, width) == []
    cells = "".join([column.name + "".join(column.cell(row) for row in ROWS) for column in columns()])
    shown, expected = Counter(text), Counter(cells)
    assert {letter: shown[letter] for letter in "0123456789高x"} == {letter: expected[letter] for letter in "0123456789高x"}
    if width == 1000:
        assert len(text.splitlines()) == 2 + len(ROWS)
        assert text.splitlines()[2].split()[:4] == ["short", "1.000e+00", "1.000e+300", "-4.941e-324"]


def test_columns_that_do_not_fit_stand_below_beside_the_first_one(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    names = ("key", "one", "two", "three")
    some = [tables.Column(name, lambda row, i=i: row[i], align="left") for i, name in enumerate(names)]
    tables.console(stream).print(tables.table(some, [("k", "a" * 9, "b" * 9, "c"), ("l", "d", "e", "f")]))
    rows = [line.split() for line in stream.getvalue().splitlines() if "─" not in line]
    assert rows == [
        ["key", "one"], ["k", "a" * 9], ["l", "d"], [],
        ["key", "two"], ["k", "b" * 9], ["l", "e"], [],
        ["key", "three"], ["k", "c"], ["l", "f"],
    ]  # fmt: skip


def test_a_long_fact_goes_on_below_itself_and_paths_stay_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream, path = io.StringIO(), os.path.join(*["deep"] * 12)
    tables.facts(tables.console(stream), ("a", "some words " * 5), ("b", None), ("path", f"in {path} there"), ("c", "x" * 30))
    lines = stream.getvalue().splitlines()
    assert [line[:15].strip() for line in lines] == ["a", "", "", "path", "", "", "c", ""]
    assert too_long("\n".join(line for line in lines if path not in line), 40) == []
    assert [line[15:] for line in lines if path in line] == [path]
    monkeypatch.delenv("COLUMNS")
    stream = io.StringIO()
    tables.facts(tables.console(stream), ("a", "some words " * 50))
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("path", ["/home/my runs/of last year/digits 4 or 9", "it's my folder", "/a/b c"])
def test_a_path_with_spaces_is_quoted_for_a_shell_and_stays_whole(monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    tables.say(tables.console(stream), f"what the user's run wrote is in {folders.quoted(path)}; and that is where it stays")
    (line,) = [line for line in stream.getvalue().splitlines() if path in line.replace("'\"'\"'", "'")]
    assert path in shlex.split(line.rpartition(" in ")[2].replace(";", ""))
    rest = stream.getvalue().replace(folders.quoted(path), "").split()
    assert rest == ["what", "the", "user's", "run", "wrote", "is", "in", ";", "and", "that", "is", "where", "it", "stays"]


@pytest.mark.parametrize("value", [10.0**k * m for k in range(-9, 6, 2) for m in (1, 9.996)])
def test_a_time_has_three_digits_however_short_it_is(value):
    assert float(tables.seconds(value)) == pytest.approx(value, rel=5e-3)
    assert len(tables.seconds(value)) <= 8
    assert not tables.seconds(value).endswith(".")


def test_all_steps_are_printed_where_they_are_asked_for():
    """Of 50 steps the first 20 and the last 20 otherwise; each table has a line for the end."""
    numbers = lambda text: [int(line.split()[0]) for line in text.splitlines() if re.match(r" *\d+ ", line)]  # noqa: E731
    done = nearlin(*LONG, "--all-steps")
    assert numbers(done.stdout) == [*range(51)], done.output
    assert numbers(nearlin("report", "run", "--all-steps").stdout) == [*range(51)]
    some = nearlin("report", "run")
    assert numbers(nearlin(*LONG[:7], 41, *LONG[8:-1], "other").stdout) == [*range(42)]
    assert numbers(some.stdout) == [*range(20), *range(30, 51)]
    assert "10 steps not shown; --all-steps prints them" in some.stdout


# ------------------------------------------------------------------------------------------- streams, and kinds of terminals

# No pictures: they would take most of the time.
SCRIPT = "import sys; sys.modules['matplotlib'] = None; from nearlin.__main__ import main; main()"
TRAIN = ["train", "sphere", "--optimizer", "sgd", "--width", "8", "--steps", "2", "--out", "run"]
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX shells and terminals")


def shell(redirected):
    command = f'exec "$@" {redirected}'
    return subprocess.run(["sh", "-c", command, "sh", sys.executable, "-c", SCRIPT, *TRAIN], capture_output=True, text=True)


def whole(folder):
    return {"run.jsonl", "checkpoint.npz"} == {path.name for path in folder.glob("[!.]*")}


@posix
@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        pytest.param(
            ">/dev/full", 1, "Error: standard output could not be written: No space left on device\n",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full"),
        ),
    ],
)  # fmt: skip
def test_a_stream_that_is_closed_or_full_costs_no_run(tmp_path, redirected, code, says):
    done = shell(redirected)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", says)
    assert whole(tmp_path / "run")


@posix
def test_a_pipe_that_nobody_reads_any_more_costs_no_run(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *TRAIN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline().startswith("data ")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert whole(tmp_path / "run")


def test_letters_that_the_encoding_lacks_cost_no_run(tmp_path):
    command = [sys.executable, "-c", SCRIPT, *TRAIN[:2], *TRAIN[4:], "--optimizer", "gauss-newton"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert whole(tmp_path / "run")
    assert "λ" not in done.stdout


def on_a_terminal(*arguments, columns=60, code=SCRIPT, **env):
    """What a command writes to a terminal of its own, and its exit code."""
    import fcntl
    import pty
    import struct
    import termios

    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=other, stdout=other, stderr=other, env={**environ, "TERM": "xterm", **env}
    )
    os.close(other)
    text = b""
    while True:
        try:
            read = os.read(main, 2**16)
        except OSError:  # Linux says so at the end
            break
        if not read:
            break
        text += read
    os.close(main)
    return text.decode(), process.wait()


ONE_CLAIM = ("verify", "--only", "step-linear-in-width")


@posix
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_that_wants_no_escape_codes_gets_none(tmp_path, env):
    text, code = on_a_terminal(*ONE_CLAIM, **env)
    assert code == 0, text
    assert "\x1b" not in text
    assert "step-linear-in-width  holds" in text
    assert too_long(text.replace("\r", ""), 60) == []


@posix
def test_a_terminal_shows_the_loss_the_time_that_is_left_and_what_ctrl_c_leaves(tmp_path):
    slow = SCRIPT.replace(
        "from nearlin", "import time; from nearlin.optim import SGD; step = SGD.step; "
        "SGD.step = lambda *a, **o: time.sleep(.3) or step(*a, **o); from nearlin"
    )  # fmt: skip
    text, code = on_a_terminal("train", "sphere", "--optimizer", "sgd", "--width", "8", "--steps", "4", code=slow)
    assert code == 0, text
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    assert too_long("\n".join(lines), 60) == []
    assert re.search(r"step 0/4 ━+ -:--:-- left", joined := "\n".join(lines))
    assert re.search(r"step 3/4 [━╸╺]+ 0:00:0\d left loss \d\.\d{3}e-01 ", joined)
    assert "Ctrl-C ends the run before its first step, and leaves" in text
    assert "runs/sphere-sgd-0/checkpoint.npz, for --resume" in text


def test_a_file_gets_a_plain_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PERIOD", 0.0)
    with progress.bar(4, progress.numbered("run", 4), lambda: "Ctrl-C leaves all") as show:
        show(1, "loss 1")
        time.sleep(0.01)
        show(2, "loss 0.5")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "run 2/4: loss 1; Ctrl-C leaves all\nrun 3/4, 0:00:01 left: loss 0.5; Ctrl-C leaves all\n"
    monkeypatch.setattr(progress, "PERIOD", 60.0)
    with progress.bar(4, progress.numbered("run", 4), str) as show:
        show(1, "loss 1")
    assert capsys.readouterr().err == ""
