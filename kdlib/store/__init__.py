"""Published tables: their schemas, their versions, and file locks."""
