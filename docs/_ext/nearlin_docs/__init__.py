"""Writes the generated pages into ``docs/generated`` before a build: papers, claims, command line, and the API by floor."""

import shutil
from pathlib import Path

import nearlin
from nearlin_docs import api, claims, commands, heads

FULL = "reports/claims_full"


def setup(app):
    """Called by Sphinx. ``-D nearlin_claims=0`` builds without the claims."""
    app.add_config_value("nearlin_claims", True, "env", bool)
    app.connect("builder-inited", _generate)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _without_bars, priority=900)
    app.connect("missing-reference", _by_last_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _generate(app):
    folder, package = Path(app.srcdir) / "generated", Path(nearlin.__file__).parent
    folder.mkdir(exist_ok=True)
    _write(folder / "papers.md", heads.page(heads.read_all(package / "optim")))
    _write(folder / "commands.md", commands.page())
    _write(folder / "claims.md", _claims(app, package, folder / "claims"))
    _write(folder / "flop_models.md", api.words("nearlin.complexity.flop_models"))
    _write(folder / "kernels.md", api.kernels())
    for room in api.ROOMS:
        _write(folder / f"api_{room}.rst", api.page(room))


def _write(path, text):
    """Write, but leave a file with this text alone, so that its page is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _claims(app, package, pictures):
    from sphinx.util import logging

    full = FULL if (Path(app.srcdir) / f"{FULL}.md").exists() else None
    if not app.config.nearlin_claims:
        return claims.nothing("it was built with `nearlin_claims=0`", full)
    logger, cache = logging.getLogger(__name__), Path(app.outdir).parent / ".claims_cache"
    try:
        found = claims.report(package, cache, logger.info)
    except (ImportError, AttributeError) as error:  # no claims in this version, or no matplotlib
        return claims.nothing(f"{type(error).__name__}: {error}", full)
    from nearlin.experiments.folders import slug

    families = {claim["family"]: f"claims-{slug(claim['family'])}.png" for claim in found["claims"]}
    plots = {family: name for family, name in families.items() if (cache / name).exists()}
    pictures.mkdir(exist_ok=True)
    for name in plots.values():
        shutil.copy2(cache / name, pictures / name)
    return claims.page(found, {family: f"generated/claims/{name}" for family, name in plots.items()}, full)


def _skip(app, what, name, value, skip, options):
    """Fields of named tuples say nothing ("Alias for field number 0"); the class's docstring does."""
    return True if type(value).__name__ == "_tuplegetter" else None


def _without_bars(app, what, name, value, options, lines):
    lines[:] = map(api.without_bars, lines)


def _by_last_name(app, env, node, contnode):
    """A name of another room, such as `SolveInfo`, wherever there is only one of it."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, contnode)
