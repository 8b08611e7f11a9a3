"""Keys and passwords in a URL: they are refused in a config, and not shown in a line."""

import re

NO_CREDENTIALS = (
    "a URL may have no user or key before an @, and no options after a ?. Give credentials and endpoint in the environment"
    " (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …)"
)
"""What a URL may not hold, and what to do, for an error's text."""

_SCHEME = r"(?<![\w+.-])[A-Za-z][A-Za-z0-9+.-]*:/+"
_CONTAINER = r"(?:abfs|wasb)s?://[^/:@?\s]+@(?![^\s'\"]*@)"
"""Azure writes `container@account`, which is no key."""
_USER = re.compile(rf"(?!{_CONTAINER})({_SCHEME})[^\s'\"]*@")
_OPTIONS = re.compile(rf"({_SCHEME}[^\s'\"]*?)\?[A-Za-z_][\w.%-]*=[^\s'\"]*")
"""A `?` that no name and `=` follow stands for one character of a file's name."""


def holds_credentials(text: str) -> bool:
    """Whether a text is a URL that may hold keys: with anything before an @, or with options after a ?."""
    url = re.sub(r"[\s'\"]", "_", text.strip())
    return bool(_USER.match(url) or _OPTIONS.match(url))


def without_credentials(text: str) -> str:
    """The text with `…` in place of what may be keys in its URLs: `s3://…@bucket/folder`."""
    return _OPTIONS.sub(r"\1?…", _USER.sub(r"\1…@", text))
