"""The report on the claims: measured by the quick run when the site is built, and kept until the sources change."""

import hashlib
import json
import shutil
from importlib.metadata import version

from nearlin_docs.heads import linked

KEY = "key.txt"


def report(package, cache, progress=print):
    """What the quick run found: from the folder ``cache`` where the sources are those it was made from, else measured.

    Parameters
    ----------
    package : Path
        The folder of nearlin's sources.
    cache : Path
        Receives claims.json and the plots, where claims are measured.
    progress : callable
        Called with a line per claim.

    Returns
    -------
    dict
        What claims.json holds.
    """
    key, kept = fingerprint(package), cache / KEY
    if not kept.exists() or kept.read_text(encoding="utf-8") != key:
        _measure(cache, progress)
        kept.write_text(key, encoding="utf-8")
    return json.loads((cache / "claims.json").read_text(encoding="utf-8"))


def fingerprint(package):
    """A digest of all sources, and of the NumPy that ran them."""
    digest = hashlib.blake2b(version("numpy").encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _measure(folder, progress):
    import matplotlib as plots  # before two minutes of work

    from nearlin.experiments.verification import verify

    plots.use("agg")
    shutil.rmtree(folder, ignore_errors=True)
    found = verify(out=folder, progress=False, after=lambda result: progress(f"{result.verdict}: {result.claim.id}"))
    if found.interrupted:
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------------- Markdown


def page(found, plots, full=None):
    """A count of verdicts, a table and a plot per family, and the particulars of every claim, in MyST Markdown.

    Parameters
    ----------
    found : dict
        What claims.json holds.
    plots : dict[str, str]
        Paths of plots by family, from the page that includes this one.
    full : str, optional
        The document with the report of the full run.
    """
    families = {}
    for claim in found["claims"]:
        families.setdefault(claim["family"], []).append(claim)
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    parts = [f"**{linked(found['summary'])}**, in {found['seconds']:.0f} s on {linked(found['machine'])}; {linked(versions)}."]
    parts += [
        _failures(found["claims"]),
        _full(full),
        *(_family(name, claims, plots.get(name)) for name, claims in families.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _failures(claims):
    names = [f"`{claim['id']}` ({claim['family']}{', known' * (not claim['should_hold'])})" for claim in claims if _fails(claim)]
    return f"What fails: {', '.join(names)}." if names else ""


def _fails(claim):
    return claim["verdict"] == "fails"


def nothing(reason, full=None):
    """The page where the claims cannot run."""
    sentence = f"The claims did not run when this site was built: {linked(reason)}."
    return f":::{{admonition}} Nothing has been measured\n:class: caution\n{sentence}\n:::\n\n{_full(full)}\n"


def _full(document):
    if document is None:
        return ""
    link = f"[the report of a full run](/{document}.md)"
    sentence = f"Timed claims and larger sizes are in {link}, made on one machine and kept beside the sources."
    return f"{sentence}\n\n:::{{toctree}}\n:hidden:\n\nThe full report </{document}>\n:::"


def _family(name, claims, plot):
    head = "* - Claim\n  - Expected\n  - Measured\n  - Verdict"
    rows = "\n".join(map(_row, claims))
    table = f"::::{{list-table}}\n:header-rows: 1\n:class: claims\n:widths: 40 24 22 14\n\n{head}\n{rows}\n::::"
    picture = f":::{{image}} {plot}\n:alt: measured and predicted values\n:::" if plot else ""
    parts = [f"## {name[:1].upper()}{name[1:]}", table, picture, *map(_particulars, claims)]
    return "\n\n".join(part for part in parts if part)


def _row(claim):
    cells = (
        f"{linked(claim['statement'])} `{claim['id']}`",
        linked(claim["expected"]),
        linked(claim["value"] or "–"),
        _verdict(claim),
    )
    return "* - " + "\n  - ".join(cells)


def _verdict(claim):
    known = _fails(claim) and not claim["should_hold"]
    return f"**{claim['verdict']}**" + (" (known)" if known else "")


def _particulars(claim):
    seconds = f", in {claim['seconds']:.1f} s" if claim["seconds"] else ""
    lines = [
        f"Source: {linked(claim['paper'])}.",
        f"Quantity: {linked(claim['quantity'])}; by {claim['how']}{seconds}.",
        f"Expected to hold for: {linked(claim['condition'])}.",
        f"Run: {linked(claim['detail'])}." if claim["detail"] else "",
    ]
    body = "\n".join(f"- {line}" for line in lines if line)
    return f"<details{' open' * _fails(claim)}><summary>{claim['id']}</summary>\n\n{body}\n\n</details>"
