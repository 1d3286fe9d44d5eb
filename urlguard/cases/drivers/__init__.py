"""Where cases are kept; each driver holds SQL and nothing that another one would need as well."""
