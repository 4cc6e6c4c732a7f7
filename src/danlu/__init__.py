"""danlu: raw zh/en text to a served chat model, with proof of what each step did."""
