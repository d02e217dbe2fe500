"""A SuperLink's database is made whole or not at all, and then left alone."""

import sqlite3
import subprocess
import sys
from contextlib import closing

from checkout import needs_superlink

import fleet

pytestmark = needs_superlink


def begin(file) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "flowerbed.link.superlink.database", file], env=fleet.ENVIRONMENT)


def test_a_database_whose_making_was_cut_short_is_made_anew_and_a_whole_one_kept(tmp_path):
    file, new = tmp_path / "superlink.db", tmp_path / "superlink.db.new"
    killed = begin(file)
    fleet.wait_until(lambda: new.exists() and new.stat().st_size, 60, "the first tables")
    killed.kill()
    killed.wait()
    assert new.exists() and not file.exists()

    assert begin(file).wait(60) == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(file)) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
        assert {"node", "run", "alembic_version"} <= tables
        database.execute("create table mine (number)")

    assert begin(file).wait(60) == 0
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("select * from mine").fetchall() == []
