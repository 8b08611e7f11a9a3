"""Published tables: schemas, versions, locks."""
