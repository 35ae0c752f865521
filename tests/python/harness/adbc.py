"""ADBC's Flight SQL driver, through DB-API."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa

HEADER = adbc_driver_flightsql.DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
COOKIES = adbc_driver_flightsql.DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value


def connect(uri: str, **options: str) -> dbapi.Connection:
    """A connection; there are no transactions, so every statement is one by itself."""
    return dbapi.connect(uri, db_kwargs=options, autocommit=True)


def table(connection: dbapi.Connection, sql: str, parameters: Any = None) -> pa.Table:
    """The answer to a query."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def value(connection: dbapi.Connection, sql: str, parameters: Any = None) -> Any:
    """The one value of an answer."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        ((found,),) = cursor.fetchall()
        return found
