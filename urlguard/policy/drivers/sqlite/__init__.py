"""
The policy log in one SQLite file.

`location` is the place of the file, `connection` opens it and makes transactions, `schema` has the
tables, `store` reads and writes rows, `copies` takes and restores backups.
"""
