"""`pyarrow.compute`. It makes its functions at its import, so that type checkers do not know them."""

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
