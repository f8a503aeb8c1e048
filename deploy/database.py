"""Give each program that is named a role and a database of its own: database.py NAME ..., with the password in NAME_PASSWORD.

What is there already stays, but for the password. The server and who may do this are in libpq's variables (PGHOST, PGUSER, ...).
"""

import os
import sys

import psycopg
from psycopg.sql import SQL, Identifier, Literal

with psycopg.connect(autocommit=True) as server:
    server.execute("SELECT pg_advisory_lock(1)")  # two machines may start at once
    for name in sys.argv[1:]:
        its = Identifier(name)
        if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
            server.execute(SQL("CREATE ROLE {} LOGIN").format(its))
        # Its hash, since a server may log what it is told.
        password = server.pgconn.encrypt_password(os.environ[f"{name.upper()}_PASSWORD"].encode(), name.encode(), b"scram-sha-256")
        server.execute(SQL("ALTER ROLE {} PASSWORD {}").format(its, Literal(password.decode())))
        if not server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            server.execute(SQL("GRANT {} TO CURRENT_USER").format(its))  # who is no superuser can give away to no other role
            server.execute(SQL("CREATE DATABASE {} OWNER {}").format(its, its))
            server.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(its))
