"""Files of any common schema become clean `Document`, `Conversation` and `Preference` records.

`records` holds the three, `source.read_records` reads them, `readers.read_rows` gives plain rows, `clean.clean` cleans,
`holdout.is_held_out` says what is kept back, `adapters.table` lists the schemas.
"""
