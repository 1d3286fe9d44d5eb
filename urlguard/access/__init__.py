"""Who may call the API: roles, tokens, and limits on guessing.  Knows no HTTP and no routes."""
