"""Settings of the cleaning steps, one class a step; `ops` holds what they do, `ops.table` joins the two."""
