"""An S3 server."""

from tests.s3 import s3, silent_s3

__all__ = ["s3", "silent_s3"]
