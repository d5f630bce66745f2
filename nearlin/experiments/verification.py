"""Verification: runs the claims and writes their verdicts as JSON, Markdown and one plot per family."""

import dataclasses
import itertools
import os
import platform
import re
import time
from collections import Counter
from pathlib import Path

from nearlin._array import NAMES, BackendError, unusable
from nearlin.complexity import asv_results
from nearlin.complexity import claims as table
from nearlin.complexity.claims.runner import run
from nearlin.complexity.claims.table import FAILS, HOLDS, VERDICTS
from nearlin.experiments import folders
from nearlin.experiments.environment import versions
from nearlin.experiments.folders import write_atomically
from nearlin.experiments.progress import bar, numbered

JSON, MARKDOWN = "claims.json", "claims.md"


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    results : tuple of nearlin.complexity.claims.runner.Result
    header : dict
        Mode, source, versions, machine, date, seconds.
    interrupted : bool
    folder : path or None
    files : tuple of str
        What was written there.
    unwritten : tuple of str
        A sentence for each file that could not be.
    """

    results: tuple
    header: dict
    interrupted: bool = False
    folder: Path | None = None
    files: tuple = ()
    unwritten: tuple = ()

    @property
    def passed(self):
        """Whether no claim failed that should hold."""
        return not any(result.disappoints for result in self.results)

    @property
    def families(self):
        """Results by family, in the order of the table."""
        families = {}
        for result in self.results:
            families.setdefault(result.claim.family, []).append(result)
        return families

    @property
    def summary(self):
        """One line."""
        counts = Counter(result.verdict for result in self.results)
        known = sum(result.verdict == FAILS and not result.claim.should_hold for result in self.results)
        words = {HOLDS: "hold" if counts[HOLDS] != 1 else "holds", FAILS: "fail" if counts[FAILS] != 1 else "fails"}
        parts = [f"{counts[verdict]} {words.get(verdict, verdict)}" for verdict in VERDICTS if counts[verdict]]
        text = f"{len(self.results)} claim{'s' * (len(self.results) != 1)}: {', '.join(parts)}"
        return f"{text} ({known} of the failures known)" if known else text


def verify(only=(), full=False, backend="numpy", from_asv=None, out=None, progress=True, after=None):
    """Measure claims, and write a report where ``out`` is given.

    Parameters
    ----------
    only : iterable of str
        Ids of claims; none of them for all.
    full : bool
        Measure the timed claims too, and the others at larger sizes.
    backend : str
        Of the asv results. Without them it must be usable here, and the claims are measured on NumPy all the same.
    from_asv : str or path, optional
        A results folder of asv: judge its times instead of measuring.
    out : str or path, optional
        Folder that receives claims.json, claims.md, and a plot per family; without an earlier report. Ctrl-C before the first
        verdict leaves nothing.
    progress : bool
        A live line on a terminal, and in a file a line every 30 seconds (needs rich).
    after : callable, optional
        Called with every result.

    Returns
    -------
    Verification

    Raises
    ------
    ValueError, ImportError, OSError
        An unknown id, asv results that cannot be used, a folder that cannot be written.
    BackendError
        A backend that cannot be used.

    Examples
    --------
    >>> found = nl.experiments.verify(only=["gram-quadratic-in-samples"])
    >>> print(found.summary)
    1 claim: 1 holds
    """
    claims, source = _table(backend, from_asv)
    claims = table.select(only, claims)
    with folders.claimed(out, JSON) as folder:
        start, number, total, verdicts = time.perf_counter(), itertools.count(), len(claims), []

        def note(result):
            verdicts.extend([result.verdict] * result.measured)
            if after:
                after(result)

        with bar(total, numbered("claim", total), lambda: _promise(folder, verdicts), shown=progress) as show:
            before = lambda claim: show(next(number), claim.id)  # noqa: E731
            results, interrupted = run(claims, full or from_asv is not None, before, note)
        header = _header("asv" if from_asv is not None else "full" if full else "quick", source, time.perf_counter() - start)
        verification = Verification(results, header, interrupted)
        nothing = folder is None or (interrupted and not verdicts)
        return verification if nothing else write(verification, folder)


def _promise(folder, verdicts):
    """What Ctrl-C would leave."""
    if not verdicts:
        return "Ctrl-C ends the verification before its first verdict, and leaves nothing"
    kept = (
        "loses it, as no folder was given" if folder is None else f"leaves what was measured in {folders.quoted(folder / JSON)}"
    )
    return f"Ctrl-C ends the verification, and {kept}"


def select(only=(), backend="numpy", from_asv=None):
    """The claims that `verify` would measure; the same errors."""
    return table.select(only, _table(backend, from_asv)[0])


def _table(backend, from_asv):
    """The claims, and where their numbers come from."""
    if backend not in NAMES:
        raise BackendError(unusable(backend))
    if from_asv is not None:
        run = asv_results.read(from_asv)
        return asv_results.claims(run, backend), f"asv results of {run}, backend {backend}"
    if reason := unusable(backend):
        raise BackendError(f"backend {backend!r} cannot be used: {reason}")
    return table.CLAIMS, "measured here, on NumPy"


def _header(mode, source, seconds):
    return {
        "mode": mode,
        "source": source,
        "versions": versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
    }


# ------------------------------------------------------------------------------------------------------------ the report


def write(verification, folder):
    """Write claims.json, claims.md and the plots into ``folder``; each file appears whole or not at all.

    Returns
    -------
    Verification
        The same, with ``folder``, ``files`` and ``unwritten``.
    """
    folder, unwritten = Path(folder), []
    with folders.shielded():
        with folders.tried(folder / JSON, unwritten):
            folders.write_json(folder / JSON, _json(verification))
        plots = _plots(verification, folder, unwritten)
        text = markdown(verification, plots)
        with folders.tried(folder / MARKDOWN, unwritten):
            write_atomically(folder / MARKDOWN, lambda file: file.write(text.encode()))
    files = tuple(name for name in (JSON, MARKDOWN, *plots.values()) if (folder / name).exists())
    return dataclasses.replace(verification, folder=folder, files=files, unwritten=tuple(unwritten))


def _plots(verification, folder, unwritten):
    """The names of the plots that are written, by family."""
    try:
        from nearlin.experiments.claim_plots import plot_claims
    except ImportError:
        return {}
    plots = {}
    for family, results in verification.families.items():
        if any(result.outcome.series for result in results):
            name = f"claims-{'-'.join(re.findall('[a-z0-9]+', family.lower()))}.png"
            with folders.tried(folder / name, unwritten, Exception):  # a picture costs no verdict
                plot_claims(results, family, folder / name)
                plots[family] = name
    return plots


def _json(verification):
    return {
        **verification.header,
        "interrupted": verification.interrupted,
        "summary": verification.summary,
        "claims": [_record(result) for result in verification.results],
    }


def _record(result):
    claim, outcome = result.claim, result.outcome
    names = ("id", "number", "family", "paper", "statement", "quantity", "how", "expected", "condition", "should_hold")
    return {
        **{name: getattr(claim, name) for name in names},
        "value": outcome.value,
        "verdict": outcome.verdict,
        "detail": outcome.detail,
        "seconds": round(result.seconds, 3),
        "series": [_series(series) for series in outcome.series],
    }


def _series(series):
    numbers = {name: _numbers(getattr(series, name)) for name in ("x", "y", "predicted", "low", "high")}
    words = {name: getattr(series, name) for name in ("label", "x_label", "y_label", "log", "says", "bound")}
    return words | numbers


def _numbers(values):
    return None if values is None else [int(value) if _is_integer(value) else float(value) for value in values]


def _is_integer(value):
    return hasattr(value, "__index__")


def markdown(verification, plots=None):
    """The report as Markdown: a table and a plot per family, then the reasons of the verdicts other than "holds".

    Parameters
    ----------
    verification : Verification
    plots : dict, optional
        File names of plots by family.
    """
    header, lines = verification.header, ["# Claims and verdicts", "", f"{verification.summary}.", ""]
    version = ", ".join(f"{name} {number}" for name, number in header["versions"].items())
    lines += [f"Mode {header['mode']}, {header['source']}; {version}; {header['machine']}; {header['date']}.", ""]
    if verification.interrupted:
        lines += ["The run was interrupted: claims after that point are not measured.", ""]
    for family, results in verification.families.items():
        lines += [f"## {family[:1].upper()}{family[1:]}", "", *_family_table(results), ""]
        if name := (plots or {}).get(family):
            lines += [f"![{family}]({name})", ""]
        lines += [line for result in results for line in _note(result)]
    return "\n".join(lines).rstrip() + "\n"


def _family_table(results):
    rows = ["| claim | says | source | measured | expected | verdict |", "|---|---|---|---|---|---|"]
    for result in results:
        claim, outcome = result.claim, result.outcome
        cells = (f"`{claim.id}`", claim.statement, claim.paper, outcome.value or "-", claim.expected, _verdict(result))
        rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return rows


def _verdict(result):
    known = result.verdict == FAILS and not result.claim.should_hold
    return f"**{result.verdict}**" + (" (known)" if known else "")


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|")


def _note(result):
    """Condition and detail of one claim."""
    claim, detail = result.claim, _cell(result.outcome.detail)
    parts = (f"{claim.quantity}; expected under: {claim.condition}", detail)
    return [f"- `{claim.id}`: {'. '.join(part for part in parts if part)}.", ""] if detail else []
