"""Logging in over TLS with ADBC and pyarrow.

SQUADRON_CA names the file of the certificate authority; `ann` has the password SQUADRON_PASSWORD, `bot` the token
SQUADRON_TOKEN.
"""

import base64
import os

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow.flight

import suite

PASSWORD = os.environ["SQUADRON_PASSWORD"]
TOKEN = os.environ["SQUADRON_TOKEN"]
with open(os.environ["SQUADRON_CA"], encoding="ascii") as file:
    AUTHORITY = file.read()

OPTIONS = adbc_driver_flightsql.DatabaseOptions


def connect(url, **options):
    options = {"tls_root_certs": AUTHORITY, **options}
    known = {
        "tls_root_certs": OPTIONS.TLS_ROOT_CERTS.value,
        "authorization": OPTIONS.AUTHORIZATION_HEADER.value,
        "cookies": OPTIONS.WITH_COOKIE_MIDDLEWARE.value,
    }
    options = {known.get(name, name): value for name, value in options.items()}
    return adbc_driver_flightsql.dbapi.connect(url, db_kwargs=options, autocommit=True)


def one(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        (row,) = cursor.fetchall()
        return row[-1]


def test_user_and_password(url):
    with connect(url, username="ann", password=PASSWORD) as connection:
        assert one(connection, "SELECT count(*) FROM lineitem") == 60_175


def test_token_as_password(url):
    with connect(url, username="bot", password=TOKEN) as connection:
        assert one(connection, "SELECT 1") == 1


def test_bearer_header(url):
    with connect(url, authorization=f"Bearer {TOKEN}") as connection:
        assert one(connection, "SELECT 1") == 1


def test_basic_header(url):
    basic = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    with connect(url, authorization=f"Basic {basic}") as connection:
        assert one(connection, "SELECT 1") == 1


def test_wrong_or_missing_credentials_are_refused(url):
    for options, word in [
        ({"username": "ann", "password": "wrong"}, "password is wrong"),
        ({"authorization": "Bearer wrong-wrong-wrong-wrong"}, "token"),
        ({}, "log in"),
    ]:
        def attempt():
            with connect(url, **options) as connection:
                one(connection, "SELECT 1")

        suite.raises(adbc_driver_manager.Error, attempt, word)


def test_untrusted_certificate(url):
    def attempt():
        with adbc_driver_flightsql.dbapi.connect(
            url, db_kwargs={"username": "ann", "password": PASSWORD}, autocommit=True
        ) as connection:
            one(connection, "SELECT 1")

    suite.raises(adbc_driver_manager.Error, attempt, "certificate")


def test_settings_last_with_and_without_cookies(url):
    for cookies in ["false", "true"]:
        with connect(url, username="ann", password=PASSWORD, cookies=cookies) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SET squadron.priority = 7")
            assert one(connection, "SHOW squadron.priority") == "7"
        with connect(url, username="ann", password=PASSWORD, cookies=cookies) as connection:
            assert one(connection, "SHOW squadron.priority") == "0", "a new connection is a new session"


def test_prepared_statements_with_parameters(url):
    with connect(url, username="ann", password=PASSWORD) as connection:
        with connection.cursor() as cursor:
            for number in [1, 2]:
                cursor.execute("SELECT CAST(? AS BIGINT)", parameters=(number,))
                assert cursor.fetchall() == [(number,)]


def pyarrow_client(url):
    return pyarrow.flight.connect(url, tls_root_certs=AUTHORITY)


def test_pyarrow_basic_token(url):
    with pyarrow_client(url) as client:
        token = client.authenticate_basic_token("ann", PASSWORD)
        assert token[0] == b"authorization" and token[1].startswith(b"Bearer ")
        options = pyarrow.flight.FlightCallOptions(headers=[token])
        assert any(action.type == "CloseSession" for action in client.list_actions(options))
        suite.raises(pyarrow.flight.FlightUnauthenticatedError, lambda: list(client.list_actions()), "log in")
        suite.raises(
            pyarrow.flight.FlightUnauthenticatedError,
            lambda: client.authenticate_basic_token("ann", "wrong"),
            "password is wrong",
        )


class FirstScheme(pyarrow.flight.ClientAuthHandler):
    """Flight's first way to log in: the credentials are the payload of the handshake."""

    def __init__(self):
        super().__init__()
        self.token = b""

    def authenticate(self, outgoing, incoming):
        outgoing.write(pyarrow.flight.BasicAuth("ann", PASSWORD).serialize())
        self.token = incoming.read()

    def get_token(self):
        return self.token


def test_pyarrow_first_scheme(url):
    with pyarrow_client(url) as client:
        client.authenticate(FirstScheme())
        assert any(action.type == "CloseSession" for action in client.list_actions())


if __name__ == "__main__":
    suite.main(globals())
