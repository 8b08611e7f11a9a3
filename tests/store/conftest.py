"""Folders on a disk and in an S3 server."""

from tests.s3 import s3, silent_s3, url

__all__ = ["s3", "silent_s3", "url"]
