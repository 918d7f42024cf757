"""Runs a verifier over copies of the databases; reads a task from stdin, writes its outcome to stdout."""

import contextlib
import inspect
import io
import json
import sqlite3
import sys
import traceback
from typing import Any, Optional


class Query:
    """The rows of a table that fit."""

    def __init__(self, connection, table, fits=()):
        self._connection, self._table, self._fits = connection, table, list(fits)

    def _that(self, column, operator, value):
        return Query(self._connection, self._table, [*self._fits, (column, operator, value)])

    def eq(self, column, value):
        return self._that(column, "IS", value)

    def neq(self, column, value):
        return self._that(column, "IS NOT", value)

    def all(self):
        where = " AND ".join(f'"{column}" {operator} ?' for column, operator, _ in self._fits) or "1"
        values = [value for _, _, value in self._fits]
        query = f'SELECT * FROM "{self._table}" WHERE {where}'
        return [dict(row) for row in self._connection.execute(query, values)]

    def first(self):
        return next(iter(self.all()), None)

    def count(self):
        return len(self.all())


class DatabaseSnapshot:
    """A database as it was when the verifier was called."""

    def __init__(self, tables):
        self._connection = sqlite3.connect(":memory:")
        self._connection.row_factory = sqlite3.Row
        for table in tables:
            self._connection.execute(table["sql"])
            for row in table["rows"]:
                marks = ",".join("?" * len(row))
                self._connection.execute(f'INSERT INTO "{table["name"]}" VALUES ({marks})', row)

    def table(self, name):
        return Query(self._connection, name)

    def query(self, sql, args=()):
        return [dict(row) for row in self._connection.execute(sql, args)]


class Environment:
    """What older verifiers are given instead of the two databases."""

    def __init__(self, databases):
        self._databases, self.instance = databases, self

    def load(self):
        pass

    def db(self, name="current"):
        return self._databases[name]


def main(task):
    databases = {name: DatabaseSnapshot(tables) for name, tables in task["databases"].items()}
    names = {
        "Any": Any,
        "DatabaseSnapshot": DatabaseSnapshot,
        "Environment": Environment,
        "Optional": Optional,
        "TASK_FAILED_SCORE": 0,
        "TASK_SUCCESSFUL_SCORE": 1,
        "json": json,
    }
    exec(task["code"], names)
    verifier = names[task["name"]]
    parameters = list(inspect.signature(verifier).parameters)
    if parameters and parameters[0] == "env":
        arguments = [Environment(databases), task["text"]]
    else:
        arguments = [databases["seed"], databases["current"], task["text"]]
    return verifier(*arguments[: len(parameters)])


try:
    # What the verifier prints must not stand before the outcome.
    with contextlib.redirect_stdout(io.StringIO()):
        outcome = {"result": main(json.load(sys.stdin)), "error": None}
    said = json.dumps(outcome)
except BaseException:
    said = json.dumps({"result": None, "error": traceback.format_exc()})
print(said)
