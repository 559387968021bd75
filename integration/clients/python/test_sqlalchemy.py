"""SQLAlchemy: the dialect of flightsql-dbapi, which Superset uses, and its pool over ADBC connections."""

from urllib.parse import urlparse

import adbc_driver_flightsql.dbapi
import flightsql.sqlalchemy  # noqa: F401 (registers the dialect)
import sqlalchemy
from sqlalchemy import text

import suite

TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]


def engine(url, user="", **options):
    # Without prepared statements the dialect sends NULL for parameters that are given to execute().
    options = {"insecure": "true", "feature-sqlalchemy-prepared-statements": "on", **options}
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return sqlalchemy.create_engine(f"datafusion+flightsql://{user}{urlparse(url).netloc}?{query}")


def test_query(url):
    with engine(url).connect() as connection:
        rows = connection.execute(text("SELECT r_regionkey, r_name FROM region ORDER BY 1")).fetchall()
        assert [tuple(row) for row in rows[:2]] == [(0, "AFRICA"), (1, "AMERICA")] and len(rows) == 5


def test_statement_of_two_megabytes(url):
    with engine(url).connect() as connection:
        assert connection.execute(text(f"SELECT length('{'x' * 2_000_000}')")).scalar() == 2_000_000


def test_user_and_token(url):
    for server in (engine(url, user="someone:secret@"), engine(url, token="anything")):
        with server.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1


def test_parameters(url):
    with engine(url).connect() as connection:
        by_key = text("SELECT n_name FROM nation WHERE n_nationkey = :key AND n_name <> :other")
        assert connection.execute(by_key, {"key": 6, "other": "PERU"}).scalar() == "FRANCE"
        assert connection.execute(by_key.bindparams(key=7, other="PERU")).scalar() == "GERMANY"


def test_inspection(url):
    inspector = sqlalchemy.inspect(engine(url))
    assert "public" in inspector.get_schema_names()
    assert set(TABLES) <= set(inspector.get_table_names(schema="public"))
    columns = inspector.get_columns("region", schema="public")
    assert [column["name"] for column in columns] == ["r_regionkey", "r_name", "r_comment"]
    assert inspector.get_foreign_keys("region") == []


def test_expressions_over_reflected_table(url):
    server = engine(url)
    nation = sqlalchemy.Table("nation", sqlalchemy.MetaData(), schema="public", autoload_with=server)
    with server.connect() as connection:
        query = sqlalchemy.select(nation.c.n_name).where(nation.c.n_nationkey == 6)
        assert connection.execute(query).scalar() == "FRANCE"
        count = sqlalchemy.select(sqlalchemy.func.count()).select_from(nation)
        assert connection.execute(count).scalar() == 25


def test_ddl(url):
    with engine(url).connect() as connection:
        connection.execute(text("CREATE VIEW sqlalchemy_view AS SELECT 1 AS one").execution_options(autocommit=True))
        assert connection.execute(text("SELECT one FROM sqlalchemy_view")).scalar() == 1
        connection.execute(text("DROP VIEW sqlalchemy_view").execution_options(autocommit=True))


def test_pool_reuses_adbc_connections(url):
    source = adbc_driver_flightsql.dbapi.connect(url, autocommit=True)
    pool = sqlalchemy.pool.QueuePool(source.adbc_clone, pool_size=2, max_overflow=0)
    for number in range(6):
        connection = pool.connect()
        cursor = connection.cursor()
        cursor.execute("SELECT ? + 1", (number,))
        assert cursor.fetchone() == (number + 1,)
        cursor.close()
        connection.close()
    assert pool.checkedout() == 0
    pool.dispose()
    source.close()


if __name__ == "__main__":
    suite.main(dict(globals()))
