"""The tables of the suite: their columns, and their rows made from a seed and written as Parquet."""

import datetime
import decimal
import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

WORDS = (
    "", " ", "a", "b", "ab", "abc", "ABC", " abc ", "it's", '"quoted"', "50%", "a_b", "%", "_", "\u00e9t\u00e9",
    "Z\u00fcrich", "\u6f22\u5b57", "\U0001f600 smile", "zebra", "apple pie", "0", "-7", "12.5", "2024-02-29", "NULL",
)
KEYS = ("red", "green", "blue", "Red", "black", "white", "gr\u00fcn", "")
FILES = 4
EPOCH = datetime.date(1970, 1, 1)


@dataclass(frozen=True)
class Column:
    """A column: `bits` bounds the magnitude of integers, doubles (in eighths) and the length of texts."""

    name: str
    kind: str
    arrow: pyarrow.DataType
    bits: int = 0
    wild: bool = False


def _integer(name, arrow, bits, wild=False):
    return Column(name, "int", arrow, bits, wild)


COLUMNS = {
    column.name: column
    for column in (
        _integer("id", pyarrow.int32(), 13),
        _integer("k", pyarrow.int32(), 9),
        _integer("k2", pyarrow.int64(), 9),
        _integer("g", pyarrow.int8(), 4),
        _integer("n", pyarrow.int64(), 6),
        _integer("i8", pyarrow.int8(), 8, True),
        _integer("i16", pyarrow.int16(), 16, True),
        _integer("i32", pyarrow.int32(), 32, True),
        _integer("i64", pyarrow.int64(), 64, True),
        _integer("u8", pyarrow.uint8(), 8, True),
        _integer("u16", pyarrow.uint16(), 16, True),
        _integer("u32", pyarrow.uint32(), 32, True),
        _integer("u64", pyarrow.uint64(), 65, True),
        _integer("gone", pyarrow.int32(), 4),
        Column("x", "double", pyarrow.float64(), 16),
        Column("r", "double", pyarrow.float32(), 12),
        Column("w", "double", pyarrow.float64(), wild=True),
        Column("p", "dec", pyarrow.decimal128(9, 2)),
        Column("q", "dec", pyarrow.decimal128(18, 4)),
        Column("z", "dec", pyarrow.decimal128(38, 10), wild=True),
        Column("b", "bool", pyarrow.bool_()),
        Column("c", "text", pyarrow.string(), 6),
        Column("t", "text", pyarrow.string(), 20),
        Column("day", "date", pyarrow.date32()),
        Column("far", "date", pyarrow.date32(), wild=True),
        Column("moment", "ts", pyarrow.timestamp("us")),
        Column("zoned", "tstz", pyarrow.timestamp("us", "UTC")),
        Column("l", "list", pyarrow.list_(pyarrow.int32())),
        Column("s", "struct", pyarrow.struct([("a", pyarrow.int32()), ("b", pyarrow.string())])),
    )
}
# The rows of each table, its columns besides `id`, and the column by which its rows are sorted, so that row groups
# can be left out.
TABLES = {
    "tiny": (50, "k g n x b c t day", "id"),
    "small": (120, "k k2 g i8 u8 w p c t moment gone", "k"),
    "middle": (300, "k k2 g n i16 u16 x r q b c day zoned l", "day"),
    "wide": (700, " ".join(name for name in COLUMNS if name != "id"), "w"),
    "many": (1500, "k k2 g i32 u32 x w z t far moment s gone", "moment"),
    "large": (3000, "k k2 g n i64 u64 x w p b c t day zoned", "k"),
}


def columns(table):
    """The columns of a table, in their order in its files."""
    return [COLUMNS[name] for name in ["id", *TABLES[table][1].split()]]


def make(folder, seed):
    """Writes each table as a folder of Parquet files with several row groups each."""
    for table, (rows, _, sorted_by) in TABLES.items():
        chance = random.Random(f"{seed}/{table}")
        arrays = {column.name: _values(column, rows, chance) for column in columns(table)}
        schema = pyarrow.schema([(column.name, column.arrow) for column in columns(table)])
        data = pyarrow.table(arrays, schema=schema).sort_by(sorted_by)
        target = Path(folder) / table
        target.mkdir(parents=True, exist_ok=True)
        size = -(-rows // FILES)
        for number in range(FILES):
            part = data.slice(number * size, size)
            pyarrow.parquet.write_table(part, target / f"part-{number}.parquet", row_group_size=-(-size // 3))


def _values(column, rows, chance):
    if column.name == "id":
        return list(range(1, rows + 1))
    density = 1.0 if column.name == "gone" else chance.choice((0.02, 0.1, 0.25, 0.5))
    return [None if chance.random() < density else _value(column, rows, chance) for _ in range(rows)]


def _value(column, rows, chance):
    match column.kind:
        case "int":
            return _wild_integer(column.arrow, chance) if column.wild else _tame_integer(column, rows, chance)
        case "double":
            return _wild_double(chance) if column.wild else chance.randrange(-(2**column.bits), 2**column.bits) / 8
        case "dec":
            digits = chance.choice((2, 4, column.arrow.precision))
            value = decimal.Decimal(chance.randrange(-(10**digits) + 1, 10**digits))
            return value.scaleb(-column.arrow.scale, decimal.Context(prec=60))
        case "bool":
            return chance.random() < 0.6
        case "text":
            return chance.choice(KEYS if column.name == "c" else WORDS)
        case "date":
            return _date(column.wild, chance)
        case "ts" | "tstz":
            micros = chance.choice((0, 0, chance.randrange(86_400_000_000)))
            return (_date(False, chance) - EPOCH).days * 86_400_000_000 + micros
        case "list":
            return [chance.choice((None, 1, 2, 3, -5, 2**31 - 1)) for _ in range(chance.randrange(4))]
        case "struct":
            return {"a": chance.choice((None, 1, 2, -3)), "b": chance.choice((None, *WORDS))}
        case kind:
            raise ValueError(kind)


def _tame_integer(column, rows, chance):
    match column.name:
        case "k":
            return chance.randrange(rows // 8)
        case "k2":
            return chance.randrange(300)
        case "g":
            # Half of the rows are in one group.
            return chance.choice((1, 1, 1, 1, -1, 0, 2, 3))
        case _:
            return chance.randrange(-50, 51)


def _wild_integer(arrow, chance):
    unsigned = pyarrow.types.is_unsigned_integer(arrow)
    width = arrow.bit_width
    low, high = (0, 2**width - 1) if unsigned else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    return chance.choice((low, high, 0, 1, high - 1, max(low, -1), chance.randrange(100), chance.randint(low, high)))


def _wild_double(chance):
    special = (float("nan"), -0.0, 0.0, float("inf"), float("-inf"), 1.0, -1.5, 5e-324, 1e-300, 1.7e308, -1e15, 0.1)
    return chance.choice(special) if chance.random() < 0.6 else chance.uniform(-100, 100)


def _date(wild, chance):
    if wild and chance.random() < 0.3:
        return chance.choice((datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.date(1582, 10, 4)))
    if chance.random() < 0.2:
        return chance.choice((EPOCH, datetime.date(2000, 2, 29), datetime.date(1999, 12, 31)))
    return EPOCH + datetime.timedelta(days=chance.randrange(-10_000, 22_000))
