"""Settings of Spark's connectors to object stores, from the environment."""

from types import SimpleNamespace
from typing import Any

import pytest

from kdlib.features import connectors
from kdlib.features.connectors import abfss_settings, connector_settings, gs_settings, s3a_settings

CHAIN = "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"


def test_amazon_needs_no_endpoint():
    """Without an endpoint, the connector finds Amazon's by the region. The keys stay in the environment."""
    environ = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-central-1"}
    assert s3a_settings(environ) == {
        "fs.s3a.aws.credentials.provider": CHAIN,
        "fs.s3a.endpoint.region": "eu-central-1",
    }
    assert s3a_settings({}) == {"fs.s3a.aws.credentials.provider": CHAIN}


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_another_store_is_reached_by_paths(name):
    """An endpoint means buckets in the path, its own scheme, and some region."""
    assert s3a_settings({name: "http://minio:9000"}) == {
        "fs.s3a.aws.credentials.provider": CHAIN,
        "fs.s3a.endpoint": "http://minio:9000",
        "fs.s3a.path.style.access": "true",
        "fs.s3a.connection.ssl.enabled": "false",
        "fs.s3a.endpoint.region": "us-east-1",
    }


def test_options_of_the_environment_are_kept():
    """The endpoint for S3 alone wins. Buckets may have hosts, and a public bucket needs no keys."""
    environ = {
        "AWS_ENDPOINT_URL": "https://all.example",
        "AWS_ENDPOINT_URL_S3": "https://s3.example",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "us-west-2",
    }
    assert s3a_settings(environ) == {
        "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider",
        "fs.s3a.endpoint": "https://s3.example",
        "fs.s3a.path.style.access": "false",
        "fs.s3a.connection.ssl.enabled": "true",
        "fs.s3a.endpoint.region": "us-west-2",
    }


def test_google_s_key_file_or_its_own_chain():
    """A key file is named, else the connector looks where Google's clients look."""
    assert gs_settings({})["fs.gs.auth.type"] == "APPLICATION_DEFAULT"
    found = gs_settings({"GOOGLE_SERVICE_ACCOUNT": "/keys/shop.json"})
    assert found["fs.gs.auth.type"] == "SERVICE_ACCOUNT_JSON_KEYFILE"
    assert found["fs.gs.auth.service.account.json.keyfile"] == "/keys/shop.json"


def test_azure_s_key_or_application():
    """An account's key belongs to its host. An application has an id and a secret at its tenant."""
    assert abfss_settings({"AZURE_STORAGE_ACCOUNT_NAME": "shop", "AZURE_STORAGE_ACCOUNT_KEY": "k"}) == {
        "fs.azure.account.key.shop.dfs.core.windows.net": "k"
    }
    found = abfss_settings({"AZURE_TENANT_ID": "t", "AZURE_STORAGE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"})
    assert found["fs.azure.account.oauth2.client.endpoint"] == "https://login.microsoftonline.com/t/oauth2/token"
    assert (found["fs.azure.account.oauth2.client.id"], found["fs.azure.account.oauth2.client.secret"]) == ("c", "s")
    assert abfss_settings({"AZURE_TENANT_ID": "t"}) == {}


def test_settings_of_the_run_config_win(monkeypatch):
    """Only what `spark.conf` leaves open is set from the environment. Its keys keep their own provider."""
    monkeypatch.setattr(connectors, "has_connector", lambda spark, scheme: scheme == "s3a")
    environ = {"AWS_ENDPOINT_URL": "http://minio:9000", "AWS_REGION": "eu-west-1"}

    def set_by(**given: str) -> dict[str, str]:
        found: dict[str, str] = {}
        hadoop = SimpleNamespace(set=found.__setitem__)
        conf = {f"spark.hadoop.fs.s3a.{name.replace('_', '.')}": value for name, value in given.items()}
        context = SimpleNamespace(
            _jsc=SimpleNamespace(hadoopConfiguration=lambda: hadoop),
            getConf=lambda: SimpleNamespace(contains=conf.__contains__),
        )
        spark: Any = SimpleNamespace(sparkContext=context)
        assert connectors.connected(spark, "s3", environ) == "s3a"
        assert connectors.connected(spark, "gs", environ) is None
        return found

    assert set_by() == s3a_settings(environ)
    assert "fs.s3a.endpoint.region" not in (found := set_by(endpoint_region="here"))
    assert found["fs.s3a.endpoint"] == "http://minio:9000"
    assert connectors.CREDENTIALS not in set_by(access_key="mine")


def test_amazon_emr_s_own_connector_has_its_own_settings():
    """`s3` is EMR's connector, which needs nothing."""
    assert connector_settings("s3", {"AWS_REGION": "eu-west-1"}) == {}
    assert connector_settings("s3a", {"AWS_REGION": "eu-west-1"})["fs.s3a.endpoint.region"] == "eu-west-1"
