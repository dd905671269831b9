# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sample shop of the demo: makes it, orders from it until told to stop, loses it, or counts its orders."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time

ITEMS = ("tea", "coffee", "mugs", "a very large teapot", "biscuits")


def orders(count: int) -> list[tuple[str, int]]:
    return [(random.choice(ITEMS), random.randrange(1, 100)) for _order in range(count)]


def create(connection: sqlite3.Connection, count: str) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL, quantity INTEGER NOT NULL)")
    connection.executemany("INSERT INTO orders (item, quantity) VALUES (?, ?)", orders(int(count)))
    connection.commit()


def order(connection: sqlite3.Connection, stop: str) -> None:
    until = time.monotonic() + 100
    while not os.path.exists(stop) and time.monotonic() < until:
        connection.executemany("INSERT INTO orders (item, quantity) VALUES (?, ?)", orders(5))
        connection.commit()
        time.sleep(0.005)


def lose(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM orders WHERE id > 7")
    connection.commit()
    count(connection)


def count(connection: sqlite3.Connection) -> None:
    print(connection.execute("SELECT count(*) FROM orders").fetchone()[0])


def main() -> None:
    verb, path, *arguments = sys.argv[1:]
    connection = sqlite3.connect(path, timeout=30)
    try:
        {"create": create, "order": order, "lose": lose, "count": count}[verb](connection, *arguments)
    finally:
        connection.close()


if __name__ == "__main__":
    main()
