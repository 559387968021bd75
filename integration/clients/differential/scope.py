"""What the generator knows while it writes SQL: typed values, sources of rows, chance and names."""

from dataclasses import dataclass, field, replace

# Kinds whose values can be compared, grouped, sorted and put into sets.
PLAIN = ("int", "double", "dec", "bool", "text", "date", "ts", "tstz")


@dataclass(frozen=True)
class Value:
    """SQL of a value of one kind.

    `bits` bounds an integer, a double in eighths, or the length of a text. A `raw` value may have any type of its
    kind: it is cast before arithmetic. With `wild` values (NaN, far dates, rounded doubles) nothing is computed.
    """

    sql: str
    kind: str
    bits: int = 0
    wild: bool = False
    raw: bool = False
    digits: int = 0
    scale: int = 0

    def named(self, name):
        """The same value as a column of that name."""
        return replace(self, sql=name)


@dataclass
class Source:
    """An entry of FROM: its SQL, its columns, a bound of its rows, and columns that are unique together, if any."""

    sql: str
    columns: list
    rows: int
    identity: list = field(default_factory=list)


@dataclass
class Query:
    """A query: its SQL without ORDER BY and LIMIT, the columns that it gives, and about how many rows."""

    sql: str
    columns: list
    rows: int


class Maker:
    """Chance, names and the columns that an expression may use."""

    def __init__(self, chance, columns=(), names=None):
        self.chance = chance
        self.columns = list(columns)
        self.names = names if names is not None else [0]

    def over(self, columns):
        """A maker for another part of the same query."""
        return Maker(self.chance, columns, self.names)

    def name(self, prefix):
        """A name that is new in this query."""
        self.names[0] += 1
        return f"{prefix}{self.names[0]}"

    def odds(self, probability):
        """True with that probability."""
        return self.chance.random() < probability

    def pick(self, choices):
        """One of the choices."""
        return self.chance.choice(list(choices))

    def weighted(self, *choices):
        """One of (weight, choice)."""
        return self.chance.choices([choice for _, choice in choices], [weight for weight, _ in choices])[0]

    def column(self, kind):
        """A visible column of a kind, or None."""
        found = [column for column in self.columns if column.kind == kind]
        return self.chance.choice(found) if found else None

    def kinds(self):
        """The kinds of visible columns that can be compared, as often as there are columns."""
        return [column.kind for column in self.columns if column.kind in PLAIN] or ["int"]
