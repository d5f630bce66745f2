"""The heads of the optimizer files as a page: read from the sources, never copied by hand. Needs nothing but Python."""

import ast
import re
from dataclasses import dataclass

FIELDS = ("Paper", "Update", "Notation", "Cost", "Oracles", "Deviations")


@dataclass(frozen=True)
class Head:
    """What stands at the head of one optimizer file.

    Attributes
    ----------
    stem : str
        Name of the file without ``.py``.
    classname : str
        The class with a method ``step``.
    title : str
        First line of the docstring.
    fields : dict[str, tuple of str]
        Lines of each of the six fields, with the indentation that they have inside the field.
    variants : tuple of str
        Classes of the file that inherit from it.
    """

    stem: str
    classname: str
    title: str
    fields: dict
    variants: tuple = ()

    @property
    def anchor(self):
        """The label of its section."""
        return f"paper-{self.stem.replace('_', '-')}"

    def text(self, field):
        """A field as one line."""
        return re.sub(r" {2,}", " ", " ".join(line.strip() for line in self.fields[field]))


def read(path):
    """The `Head` of an optimizer file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title, _, body = ast.get_docstring(tree).partition("\n")
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    (classname,) = [node.name for node in classes if "step" in _methods(node)]
    variants = tuple(node.name for node in classes if classname in map(ast.unparse, node.bases))
    return Head(path.stem, classname, title.strip().rstrip("."), _fields(body), variants)


def _methods(node):
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef)}


def _fields(body):
    found, name = {}, None
    for line in body.strip("\n").splitlines():
        if start := re.match(r"([A-Z][a-z]+) {2,}(?=\S)", line):
            name, indent = start[1], start.end()
            found[name] = []
            line = " " * indent + line[indent:]
        found[name].append(line[indent:].rstrip() if not line[:indent].strip() else line.strip())
    if tuple(found) != FIELDS:
        raise ValueError(f"the head has the fields {', '.join(found)}; expected {', '.join(FIELDS)}")
    return {name: tuple(lines) for name, lines in found.items()}


def read_all(folder):
    """The heads of all optimizer files of a folder: second-order methods first, as their heads name a Jacobian."""
    heads = [read(path) for path in sorted(folder.glob("[!_]*.py"))]
    return sorted(heads, key=lambda head: ("jacobian" not in head.text("Oracles"), -_length(head), head.stem))


def _length(head):
    """Lines of the head: the method that has the most to say comes first."""
    return sum(map(len, head.fields.values()))


# ------------------------------------------------------------------------------------------------------------- Markdown


def page(heads):
    """The table of all heads, and each in full, in MyST Markdown."""
    return "\n\n".join([_table(heads), *map(_section, heads)]) + "\n"


def _table(heads):
    rows = [_row("Class and paper", "Update")]
    rows += [_row(_method(head), _items(map(_line, update_lines(head)))) for head in heads]
    body = "\n".join(rows)
    return f"::::{{list-table}}\n:header-rows: 1\n:class: papers\n:widths: 30 70\n\n{body}\n::::"


def _method(head):
    """The class with a link to its section, those that inherit from it, and below them its paper."""
    names = [f"[`{head.classname}`](#{head.anchor})", *map(code, head.variants)]
    return f"{', '.join(names)}\\\n{linked(_short(head))}"


def _row(*cells):
    lines = []
    for k, cell in enumerate(cells):
        first, *rest = cell.splitlines()
        lines.append(f"{'* -' if k == 0 else '  -'} {first}")
        lines += [f"    {line}" for line in rest]
    return "\n".join(lines)


def _short(head):
    """Authors and identifier of the paper."""
    text = head.text("Paper").removeprefix("the method of ")
    names = re.match(r"(?:[A-Z][\w.]*(?: (?:den )?[A-Z][\w]*)?, |van den [A-Z]\w+, )*(?=[A-Z]|arXiv)", text)[0].rstrip(", ")
    identifier = re.search(r"arXiv:[\d.]+\d|doi:[^\s;,]+", text)[0]
    if not names or names.count(",") > 7:
        names = text.split(",")[0]
    return f"{names}, {identifier}"


def update_lines(head):
    """The assignments of the update, without the explanations beside them."""
    lines = [line.strip() for line in head.fields["Update"] if "←" in line]
    formulas = [re.split(r";\s|(?<=\S):\s{2,}(?=the )|\s{3,}with ", line)[0] for line in lines]
    return [part.strip(" :;,") for formula in formulas for part in re.split(r",\s{2,}", formula)]


def _items(lines):
    return "\n".join(f"- {line}" for line in lines)


def _line(text):
    """A line of a formula as code, gaps kept but for wide ones."""
    return code(re.sub(r"(?<=\S) {4,}", "   ", text.replace("`", "")))


def _section(head):
    parts = [f"({head.anchor})=\n## {head.classname}"]
    parts += [f"{escaped(head.title)}."] if head.title != head.classname else []
    parts += [_field(head, name) for name in FIELDS]
    parts.append(f"In full: {{py:class}}`nearlin.optim.{head.classname}`; source: `nearlin/optim/{head.stem}.py`.")
    return "\n\n".join(parts)


def _field(head, name):
    lines = head.fields[name]
    if name in ("Update", "Notation", "Cost", "Oracles"):
        return f"**{name}**\n\n:::{{container}} formula\n{_items(_lines(name, lines))}\n:::"
    if name == "Deviations" and lines[0].startswith("1. "):
        return f"**{name}**\n\n{_numbered(lines)}"
    return f"**{name}**: {linked(head.text(name))}"


def _lines(name, lines):
    """What stands on a line of its own: a line of the update, a symbol, a cost or a pass with the lines that continue it."""
    if name == "Update":
        return map(_line, lines)
    if name == "Notation":
        return map(_line, re.split(r",\s{2,}|(?<=:)\s{2,}", " ".join(lines)))
    return map(linked, re.sub(r"\n\s+", " ", "\n".join(lines)).splitlines())


def _numbered(lines):
    items = []
    for line in lines:
        if re.match(r"\d+\. ", line):
            items.append(line)
        else:
            items[-1] += " " + line.strip()
    return "\n".join(re.match(r"\d+\. ", item)[0] + linked(item.split(". ", 1)[1]) for item in items)


def escaped(text):
    """Plain text for Markdown; ``literals`` and `names` become code."""
    parts = re.split(r"``?([^`]+)``?", text)
    return "".join(code(part) if k % 2 else re.sub(r"([\\`*_{}\[\]<>#|$])", r"\\\1", part) for k, part in enumerate(parts))


def linked(text):
    """`escaped`, with arXiv ids and DOIs as links."""
    parts = re.split(r"(arXiv:\d{4}\.\d{4,5}|doi:10\.[^\s;,]+)", text)
    return "".join(_link(part) if k % 2 else escaped(part) for k, part in enumerate(parts))


def _link(identifier):
    kind, _, number = identifier.partition(":")
    return f"[{identifier}](https://{'arxiv.org/abs' if kind == 'arXiv' else 'doi.org'}/{number})"


def code(text):
    """Text as code, whatever backticks it holds."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"
