"""One page per floor from ``__all__`` and the docstrings: no list of names is kept by hand."""

import inspect
import re
import textwrap
from importlib import import_module

ROOMS = ("nearlin", "linalg", "sketch", "nn", "curvature", "steps", "data", "optim", "complexity", "experiments", "sklearn")


def page(room):
    """The page of a room in reStructuredText: its own words, a table of its names, and each of them in full."""
    name = room if room == "nearlin" else f"nearlin.{room}"
    module = import_module(name)
    parts = [_title(name, "="), f".. py:module:: {name}", prose(module.__doc__)]
    documented, submodules, data = _sorted(module)
    if documented:
        parts += [_summary(documented), *(_entry(entry, value) for entry, value in documented)]
    parts += [_data(entry, value) for entry, value in data]
    parts += [_submodule(value) for value in submodules if value.__name__ not in _rooms()]
    return "\n\n".join(parts) + "\n"


def _rooms():
    return {f"nearlin.{room}" for room in ROOMS}


def _sorted(module):
    """Functions and classes, modules, and other values of ``__all__``."""
    documented, submodules, data = [], [], []
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            submodules.append(value)
        elif inspect.isclass(value) or callable(value):
            documented.append((name, value))
        else:
            data.append((name, value))
    return documented, submodules, data


def names(room):
    """What the page of a room documents, for tests."""
    return re.findall(r"^\.\. (?:autoclass|autofunction|autoexception|py:data):: (\S+)$", page(room), flags=re.MULTILINE)


def _title(text, line):
    return f"{text}\n{line * len(text)}"


def _summary(documented):
    return ".. autosummary::\n   :nosignatures:\n\n" + "\n".join(f"   {name}" for name, _ in documented)


def _entry(name, value):
    if not inspect.isclass(value):
        return f".. autofunction:: {name}"
    if issubclass(value, BaseException):
        return f".. autoexception:: {name}"
    inherited = [member for member in dir(value) if member.endswith("_request")]  # scikit-learn's, whose pages are elsewhere
    return f".. autoclass:: {name}\n   :members:" + (f"\n   :exclude-members: {', '.join(inherited)}" if inherited else "")


def _data(name, value):
    items = ", ".join(map(str, value)) if isinstance(value, tuple | list | dict) else value
    return f".. py:data:: {name}\n\n   {items}"


def _submodule(module):
    """A module or package that a room exports as a whole: what it defines and does not hide."""
    public = [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith(module.__name__)
    ]
    parts = [_title(module.__name__, "-"), f".. py:module:: {module.__name__}", prose(module.__doc__)]
    parts += [_summary(public), *(_entry(name, value) for name, value in public)]
    return "\n\n".join(parts)


def prose(doc):
    """A module's docstring in reStructuredText: indented paragraphs are code or formulas, and bars are no markup."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(doc))
    return "\n\n".join(_paragraph(p) for p in paragraphs)


def _paragraph(text):
    if text.startswith(("  ", "\t")):
        language, code = "python" if "nl." in text else "text", textwrap.indent(textwrap.dedent(text), "   ")
        return f".. code-block:: {language}\n   :class: wrapped\n\n{code}"
    return _list_table(text) if text.startswith("====") else without_bars(text)


def _list_table(text):
    """A simple table of two columns, some of whose cells reach into the gap between them."""
    rows = [re.split(r"\s{2,}|(?<=``)\s(?=\d)", line, maxsplit=1) for line in text.splitlines() if not line.startswith("====")]
    body = "\n".join(f"   * - {without_bars(left)}\n     - {without_bars(right)}" for left, right in rows)
    return f".. list-table::\n   :widths: 45 55\n\n{body}"


def words(module_name):
    """What a module says about itself, for a page in MyST Markdown."""
    return f"```{{eval-rst}}\n.. py:module:: {module_name}\n\n{prose(import_module(module_name).__doc__)}\n```\n"


def without_bars(text):
    """Norms ||x|| and absolute values |z| are no markup; ``literals`` stay as they are."""
    parts = re.split(r"(``.+?``)", text)
    return "".join(part if k % 2 else part.replace("|", r"\|") for k, part in enumerate(parts))


def kernels():
    """A table of the kernels of the two-layer network, in MyST Markdown: the first lines of the functions of `cost.kernels`."""
    kernels = import_module("nearlin.complexity.cost.kernels")
    rows = []
    for name, value in vars(kernels).items():
        if inspect.isfunction(value) and value.__module__ == kernels.__name__ and ": " in (value.__doc__ or ""):
            what, _, formula = value.__doc__.strip().splitlines()[0].rstrip(".").partition(": ")
            if formula:
                rows.append(f"* - {what}\n  - {formula}\n  - {{py:func}}`~nearlin.complexity.cost.{name}`")
    head = "* - kernel\n  - flops\n  - in `cost`"
    body = "\n".join([head, *rows])
    return f"::::{{list-table}}\n:header-rows: 1\n:widths: 26 54 20\n\n{body}\n::::\n"
