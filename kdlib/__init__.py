"""distilrec: distil large recommenders into small ones and publish top-k tables (the library)."""
