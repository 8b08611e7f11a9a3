"""Spark's connectors to object stores: whether Spark has one, and its settings, from the environment.

The settings are those that the other clients of the store read (`kdlib.store.objects`), under Hadoop's names.
"""

from collections.abc import Mapping
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

PACKAGES = {
    "s3": "org.apache.hadoop:hadoop-aws:{hadoop}",
    "gs": "com.google.cloud.bigdataoss:gcs-connector:VERSION",
    "abfss": "org.apache.hadoop:hadoop-azure:{hadoop}",
}
"""Scheme → the package with the connector."""
NAMES = {"s3": ("s3", "s3a"), "s3a": ("s3a", "s3")}
"""Scheme → the schemes that a connector may have. `s3` is that of Amazon EMR."""
CREDENTIALS = "fs.s3a.aws.credentials.provider"


def connected(spark: SparkSession, scheme: str, environ: Mapping[str, str]) -> str | None:
    """The scheme of Spark's connector for URLs of a scheme, with its settings in place; None if Spark has no connector.

    Settings of `spark.conf` win over those from the environment.
    """
    for name in NAMES.get(scheme, (scheme,)):
        if has_connector(spark, name):
            hadoop, given = _hadoop(spark), spark.sparkContext.getConf()
            for key, value in connector_settings(name, environ).items():
                owned = key == CREDENTIALS and given.contains("spark.hadoop.fs.s3a.access.key")
                if not owned and not given.contains(f"spark.hadoop.{key}"):
                    hadoop.set(key, value)
            return name
    return None


def has_connector(spark: SparkSession, scheme: str) -> bool:
    """Whether Spark's classes can read URLs of a scheme."""
    java: Any = spark._jvm
    try:
        java.org.apache.hadoop.fs.FileSystem.getFileSystemClass(scheme, _hadoop(spark))
    except Py4JJavaError:
        return False
    return True


def package_for(spark: SparkSession, scheme: str) -> str:
    """The package with the connector for URLs of a scheme, of Spark's version of Hadoop."""
    java: Any = spark._jvm
    hadoop = java.org.apache.hadoop.util.VersionInfo.getVersion()
    return PACKAGES[scheme.replace("s3a", "s3")].format(hadoop=hadoop)


def connector_settings(scheme: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Hadoop's settings for the connector of a scheme: name → value."""
    make = {"s3a": s3a_settings, "gs": gs_settings, "abfss": abfss_settings}.get(scheme)
    return make(environ) if make else {}


def s3a_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Settings of the connector `hadoop-aws`, for S3 and stores that speak its language.

    Keys stay in the environment, where Amazon's own chain of providers finds them: variables, web identity, the files of
    the AWS command line, the service of a container or machine.
    """
    provider = "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
    if _true(environ.get("AWS_SKIP_SIGNATURE")):
        provider = "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"
    found = {CREDENTIALS: provider}
    if region := environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"):
        found["fs.s3a.endpoint.region"] = region
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if endpoint := next(filter(None, map(environ.get, names)), None):
        hosts = _true(environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST"))
        found["fs.s3a.endpoint"] = endpoint
        found["fs.s3a.path.style.access"] = "false" if hosts else "true"  # few other stores have a host for each bucket
        found["fs.s3a.connection.ssl.enabled"] = "false" if endpoint.startswith("http://") else "true"
        found.setdefault("fs.s3a.endpoint.region", "us-east-1")  # Amazon's client needs one, and other stores ignore it
    return found


def gs_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Settings of Google's connector. Without a key file, it finds credentials as Google's own clients do."""
    found = {"fs.gs.impl": "com.google.cloud.hadoop.fs.gcs.GoogleHadoopFileSystem"}
    if file := environ.get("GOOGLE_SERVICE_ACCOUNT_PATH") or environ.get("GOOGLE_SERVICE_ACCOUNT"):
        return found | {
            "fs.gs.auth.type": "SERVICE_ACCOUNT_JSON_KEYFILE",
            "fs.gs.auth.service.account.json.keyfile": file,
        }
    return found | {"fs.gs.auth.type": "APPLICATION_DEFAULT"}


def abfss_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Settings of the connector `hadoop-azure`: an account's key, or an application's id and secret."""
    names = ("AZURE_STORAGE_TENANT_ID", "AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET")
    tenant, client, secret = (environ.get(name) or environ.get(name.replace("STORAGE_", "")) for name in names)
    account, key = environ.get("AZURE_STORAGE_ACCOUNT_NAME"), environ.get("AZURE_STORAGE_ACCOUNT_KEY")
    if account and key:
        return {f"fs.azure.account.key.{account}.dfs.core.windows.net": key}
    if tenant and client and secret:
        return {
            "fs.azure.account.auth.type": "OAuth",
            "fs.azure.account.oauth.provider.type": "org.apache.hadoop.fs.azurebfs.oauth2.ClientCredsTokenProvider",
            "fs.azure.account.oauth2.client.endpoint": f"https://login.microsoftonline.com/{tenant}/oauth2/token",
            "fs.azure.account.oauth2.client.id": client,
            "fs.azure.account.oauth2.client.secret": secret,
        }
    return {}


def _hadoop(spark: SparkSession) -> Any:
    """Hadoop's configuration. Spark passes it on to the workers, and prints none of it."""
    context: Any = spark.sparkContext
    return context._jsc.hadoopConfiguration()


def _true(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true", "yes")
