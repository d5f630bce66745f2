"""Reads the Cost and Oracles fields of the heads; docs/adding_a_paper.md has their grammar."""

import ast
import math
import re
from fractions import Fraction
from typing import NamedTuple

LABELS = ("exact", "nominal", "leading", "at most")
CONDITION = r"\w+ (?:=|>|<=) [^,:]+"
TERM = re.compile(
    rf"(?P<label>{'|'.join(LABELS)}) (?P<expression>.+?) (?P<unit>flops|floats kept|floats at the peak)(?: per (?P<per>[\w ]+?))?"
    rf"(?P<conditions>(?:, {CONDITION})*)(?:: (?P<why>.+))?"
)
CLAUSE = re.compile(rf"(?P<occasion>[a-z][a-zA-Z ]*?)(?:, per batch)?(?P<conditions>(?:, {CONDITION})*): (?P<asks>.+)")
ASK = re.compile(r"(?P<number>\w+) (?P<oracle>[a-z_]+)(?: more)?")
TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d²³][^\W²³]*|\*\*|[²³]|[-+*/(),]")
FUNCTIONS = ("min", "max", "inverse")


class Term(NamedTuple):
    """A line of Cost: ``per`` is what it is summed over, if anything, and the occasion."""

    label: str
    expression: str
    unit: str
    per: tuple
    conditions: tuple


class Ask(NamedTuple):
    """A clause of Oracles: how often each is asked for on an occasion; drawn: how many draws of labels."""

    occasion: str
    conditions: tuple
    calls: dict
    drawn: int


def lines(text, name):
    """The lines of a field, those that are indented more joined to the line before."""
    body = re.search(rf"^{name}( +)(.+?)(?=^[A-Z][a-z]+ +\S|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    indent, found = len(name) + len(body[1]), []
    for k, line in enumerate(body[2].rstrip().splitlines()):
        if k and line[indent : indent + 2] == "  ":
            found[-1] += " " + line.strip()
        else:
            found.append(line.strip())
    return found


def head(path):
    """The docstring of a file."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def terms(text):
    """Every `Term` of the Cost; lines of prose begin with "with"; anything else is a ValueError."""
    return [_term(line) for line in lines(text, "Cost") if not re.match("with,? ", line)]


def _term(line):
    match = TERM.fullmatch(line)
    if not match:
        raise ValueError(f"{line!r} is no line of the grammar")
    per = tuple(match["per"].split(" and ")) if match["per"] else ()
    return Term(match["label"], match["expression"], match["unit"], per, _conditions(match["conditions"]))


def _conditions(text):
    """(name, relation, values) of each."""
    found = re.findall(r", (\w+) (=|>|<=) ([^,:]+)", text)
    return tuple((name, relation, tuple(part.strip(' "') for part in value.split(" or "))) for name, relation, value in found)


def asks(text):
    """Every `Ask` of the Oracles."""
    found = []
    for line in lines(text, "Oracles"):
        clause = CLAUSE.fullmatch(line)
        if not clause:
            raise ValueError(f"{line!r} is no line of the grammar")
        plain = re.sub(",? at 1 draw of labels", "", clause["asks"].split(":")[0])
        made = [ASK.fullmatch(part) for part in plain.split(", ")]
        if not all(made):
            raise ValueError(f"{clause['asks']!r} is no list of oracles")
        drawn = len(re.findall("at 1 draw of labels", line))
        found.append(Ask(clause["occasion"], _conditions(clause["conditions"]), {m["oracle"]: m["number"] for m in made}, drawn))
    return found


def holds(conditions, options, symbols=()):
    """Whether conditions hold for an optimizer's options and the symbols of a problem."""
    symbols = dict(symbols)

    def one(name, relation, values):
        found = options[name] if name in options else symbols[name]
        if relation == "=":
            return str(found) in values
        return float(found) > float(values[0]) if relation == ">" else float(found) <= float(values[0])

    return all(one(*condition) for condition in conditions)


def evaluate(expression, symbols):
    """The value of an expression such as ``2 o² D + n³/3``, exactly."""
    made, previous = [], ""
    for token in TOKEN.findall(expression.translate(str.maketrans("₀₁₂", "012"))):
        begins = token == "(" or (token[0].isalnum() and token not in "²³")
        ends = previous == ")" or previous in ("²", "³") or (previous and previous[0].isalnum() and previous not in FUNCTIONS)
        made.append(("*" if begins and ends else "") + _python(token))
        previous = token
    scope = {"Fraction": Fraction, "min": min, "max": max, "__builtins__": {}}
    return eval("".join(made), scope, dict(symbols))


def _python(token):
    powers = {"²": "**2", "³": "**3"}
    return powers.get(token) or (f"Fraction({token!r})" if token[0].isdigit() else token)


def spoiled(expression):
    """The expression with each of its numbers one larger in turn: negative controls."""
    for match in re.finditer(r"\d+", expression):
        yield expression[: match.start()] + str(int(match[0]) + 1) + expression[match.end() :]


def isclose(a, b, tolerance):
    return math.isclose(float(a), float(b), rel_tol=tolerance)
