"""Files are written whole or not at all, each with its origin and a checksum."""
